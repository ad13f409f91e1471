import { mount } from '../../shared/mount';
import type { JobsHeader, Place, State } from './types';
import { JobsView } from './view';

export const render = mount<JobsHeader, State, Place>(
  (parent, header, data, state, host) => new JobsView(parent, header, data, state, host)
);

export default { render };
