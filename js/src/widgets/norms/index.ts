import { mount } from '../../shared/mount';
import type { NormsHeader, Place, State } from './types';
import { NormsView } from './view';

export const render = mount<NormsHeader, State, Place>(
  (parent, header, data, state, host) => new NormsView(parent, header, data, state, host)
);

export default { render };
