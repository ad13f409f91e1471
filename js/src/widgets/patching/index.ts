import { mount } from '../../shared/mount';
import type { PatchingHeader, Place, State } from './types';
import { PatchingView } from './view';

export const render = mount<PatchingHeader, State, Place>(
  (parent, header, data, state, host) => new PatchingView(parent, header, data, state, host)
);

export default { render };
