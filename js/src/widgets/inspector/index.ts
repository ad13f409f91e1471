import { mount } from '../../shared/mount';
import type { InspectorHeader, Place, State } from './types';
import { InspectorView } from './view';

export const render = mount<InspectorHeader, State, Place>(
  (parent, header, data, state, host) => new InspectorView(parent, header, data, state, host)
);

export default { render };
