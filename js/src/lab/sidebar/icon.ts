import {
  caretRightIcon,
  closeIcon,
  codeIcon,
  deleteIcon,
  LabIcon,
  launchIcon,
  listIcon,
  stopIcon
} from '@jupyterlab/ui-components';
import type { IconName } from './actions';

/** Layers of a model with one value picked out. */
export const icon = new LabIcon({
  name: 'nbsight:icon',
  svgstr:
    '<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">' +
    '<g class="jp-icon3" fill="#616161">' +
    '<rect x="3" y="3.5" width="18" height="4" rx="1"/>' +
    '<path d="M4 10h6v4H4a1 1 0 0 1-1-1v-2a1 1 0 0 1 1-1zm10 0h6a1 1 0 0 1 1 1v2a1 1 0 0 1-1 1h-6z"/>' +
    '<rect x="3" y="16.5" width="18" height="4" rx="1"/>' +
    '<circle cx="12" cy="12" r="1.6"/></g></svg>'
});

const ICONS: Record<IconName, LabIcon> = {
  caret: caretRightIcon,
  fetch: codeIcon,
  free: deleteIcon,
  log: listIcon,
  open: launchIcon,
  remove: closeIcon,
  stop: stopIcon
};

export function iconElement(name: IconName): HTMLElement {
  return ICONS[name].element({ tag: 'span', width: '16px', height: '16px' });
}
