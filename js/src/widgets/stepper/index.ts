import { mount } from '../../shared/mount';
import type { Place, State, StepperHeader } from './types';
import { StepperView } from './view';

export const render = mount<StepperHeader, State, Place>(
  (parent, header, data, state, host) => new StepperView(parent, header, data, state, host)
);

export default { render };
