import { uniqueId } from './dom';

/** The part of a widget model that requests travel on. */
export interface Channel {
  send(content: unknown): void;
  on(event: 'msg:custom', callback: (content: unknown, buffers: DataView[]) => void): void;
  off(event: 'msg:custom', callback: (content: unknown, buffers: DataView[]) => void): void;
}

export interface Reply<T> {
  result: T;
  buffers: DataView[];
}

/** An exception that was raised in Python while it answered. */
export class KernelError extends Error {
  constructor(
    readonly type: string,
    message: string,
    readonly traceback: string
  ) {
    super(message);
    this.name = 'KernelError';
  }
}

/** What a request may be given beside its parameters. */
export interface Asked<T> {
  signal: AbortSignal;
  /** called with what is known before the reply */
  progress?(part: Reply<T>): void;
}

interface Message {
  kind: string;
  id: string;
  ok: boolean;
  result: unknown;
  error: { type: string; message: string; traceback: string };
}

/**
 * Requests to Python and their replies.
 *
 * A request has no time limit: the kernel may be running a long cell and will answer after it. The
 * caller gives a signal instead, and an aborted request is taken back in the kernel as well.
 */
export class Rpc {
  private readonly waiting = new Map<string, (message: Message, buffers: DataView[]) => void>();
  private readonly receive = (content: unknown, buffers: DataView[]) => {
    const message = content as Message;
    if (message?.kind === 'reply' || message?.kind === 'progress') {
      this.waiting.get(message.id)?.(message, buffers ?? []);
    }
  };

  constructor(private readonly channel: Channel) {
    channel.on('msg:custom', this.receive);
  }

  request<T>(command: string, params: object, { signal, progress }: Asked<T>): Promise<Reply<T>> {
    const id = uniqueId('request');
    return new Promise((resolve, reject) => {
      if (signal.aborted) {
        reject(new DOMException('superseded', 'AbortError'));
        return;
      }
      const abort = () => {
        this.waiting.delete(id);
        this.channel.send({ kind: 'cancel', id });
        reject(new DOMException('superseded', 'AbortError'));
      };
      signal.addEventListener('abort', abort, { once: true });
      this.waiting.set(id, (message, buffers) => {
        if (message.kind === 'progress') {
          progress?.({ result: message.result as T, buffers });
          return;
        }
        this.waiting.delete(id);
        signal.removeEventListener('abort', abort);
        if (message.ok) {
          resolve({ result: message.result as T, buffers });
        } else {
          const { type, message: text, traceback } = message.error;
          reject(new KernelError(type, text, traceback));
        }
      });
      this.channel.send({ kind: 'request', id, command, params });
    });
  }

  /** Stop listening; open requests stay unanswered. */
  close(): void {
    this.channel.off('msg:custom', this.receive);
    this.waiting.clear();
  }
}
