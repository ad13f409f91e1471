import { mount } from '../../shared/mount';
import type { LensHeader, Place, State } from './types';
import { LensView } from './view';

export const render = mount<LensHeader, State, Place>(
  (parent, header, data, state, host) => new LensView(parent, header, data, state, host)
);

export default { render };
