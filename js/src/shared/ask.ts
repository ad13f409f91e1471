import type { Asked, Reply } from './rpc';

/** What a view asks Python with; absent where no kernel is attached. */
export type Ask = <T>(command: string, params: object, asked: Asked<T>) => Promise<Reply<T>>;

/** asking: sent just now; queued: the kernel has not answered for a second; failed, done: over. */
export type Stage = 'idle' | 'asking' | 'queued' | 'failed' | 'done';

const PATIENCE = 1000; // milliseconds before saying that the kernel is busy

/**
 * Questions of which only the last counts: a new one takes the one before back, in the kernel as well,
 * and an answer that comes too late is not heard.
 */
export class LastAsked {
  private current = new AbortController();

  constructor(
    private readonly ask: Ask,
    private readonly onStage: (stage: Stage, error?: Error) => void
  ) {}

  /** The answer, or null when another question or `stop` came in between or it failed. */
  async put<T>(
    command: string,
    params: object,
    progress?: (part: Reply<T>) => void
  ): Promise<Reply<T> | null> {
    this.current.abort();
    this.current = new AbortController();
    const { signal } = this.current;
    this.onStage('asking');
    const timer = setTimeout(() => this.onStage('queued'), PATIENCE);
    const heard = (part: Reply<T>) => {
      clearTimeout(timer);
      if (!signal.aborted) {
        this.onStage('asking');
        progress?.(part);
      }
    };
    try {
      const reply = await this.ask<T>(command, params, { signal, progress: heard });
      if (signal.aborted) {
        return null;
      }
      this.onStage('done');
      return reply;
    } catch (error) {
      if (!signal.aborted) {
        this.onStage('failed', error as Error);
      }
      return null;
    } finally {
      clearTimeout(timer);
    }
  }

  stop(): void {
    this.current.abort();
    this.onStage('idle');
  }
}
