import type { Host, Make } from '../shared/mount';
import type { Header } from '../shared/payload';
import type { InspectorHeader, Place as InspectorPlace, State as InspectorState } from './inspector/types';
import { InspectorView } from './inspector/view';
import type { JobsHeader, Place as JobsPlace, State as JobsState } from './jobs/types';
import { JobsView } from './jobs/view';
import type { LensHeader, Place as LensPlace, State as LensState } from './lens/types';
import { LensView } from './lens/view';
import type { NormsHeader, Place as NormsPlace, State as NormsState } from './norms/types';
import { NormsView } from './norms/view';
import type { PatchingHeader, Place as PatchingPlace, State as PatchingState } from './patching/types';
import { PatchingView } from './patching/view';
import type { StepperHeader, Place as StepperPlace, State as StepperState } from './stepper/types';
import { StepperView } from './stepper/view';

/** A view on data that was kept, with nobody to ask. */
type Draw = (parent: HTMLElement, header: Header, data: DataView, state: unknown, selection: unknown) => void;

function kept<H extends Header, S, P>(make: Make<H, S, P>): Draw {
  return (parent, header, data, state, selection) => {
    const host: Host<S, P> = { select: () => undefined, set: () => undefined };
    make(parent, header as H, data, state as S, host).select(selection as P | null);
  };
}

/** All views by name, for what draws saved copies. */
export const VIEWS: Record<string, Draw> = {
  inspector: kept<InspectorHeader, InspectorState, InspectorPlace>((...all) => new InspectorView(...all)),
  jobs: kept<JobsHeader, JobsState, JobsPlace>((...all) => new JobsView(...all)),
  lens: kept<LensHeader, LensState, LensPlace>((...all) => new LensView(...all)),
  norms: kept<NormsHeader, NormsState, NormsPlace>((...all) => new NormsView(...all)),
  patching: kept<PatchingHeader, PatchingState, PatchingPlace>((...all) => new PatchingView(...all)),
  stepper: kept<StepperHeader, StepperState, StepperPlace>((...all) => new StepperView(...all))
};
