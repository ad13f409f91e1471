import { vi } from 'vitest';
import type { Ask } from '../src/shared/ask';
import type { Asked, Reply } from '../src/shared/rpc';

/** A kernel that is answered by hand. */
export class Kernel {
  readonly asked: {
    command: string;
    // biome-ignore lint/suspicious/noExplicitAny: whatever a view asks with
    params: any;
    signal: AbortSignal;
    progress(result: object, buffers?: DataView[]): void;
    answer(result: object, buffers?: DataView[]): Promise<void>;
    fail(error: Error): Promise<void>;
  }[] = [];

  readonly ask: Ask = <T>(command: string, params: object, { signal, progress }: Asked<T>) =>
    new Promise<Reply<T>>((resolve, reject) => {
      const settle = () => vi.waitFor(() => undefined);
      signal.addEventListener('abort', () => reject(new DOMException('superseded', 'AbortError')));
      this.asked.push({
        command,
        params,
        signal,
        progress: (result, buffers = []) => progress?.({ result: result as T, buffers }),
        answer: (result, buffers = []) => {
          resolve({ result: result as T, buffers });
          return settle();
        },
        fail: error => {
          reject(error);
          return settle();
        }
      });
    });

  get last() {
    return this.asked[this.asked.length - 1]!;
  }
}

export function floats(...values: number[]): DataView {
  return new DataView(new Float32Array(values).buffer);
}
