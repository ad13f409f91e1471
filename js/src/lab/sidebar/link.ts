import type { Kernel, KernelMessage } from '@jupyterlab/services';
import { type ISignal, Signal } from '@lumino/signaling';
import { uniqueId } from '../../shared/dom';
import { isOver, type JobRow, type Message, Mirror, TARGET } from './protocol';

const SLOW = 1000; // milliseconds after which an answer is said to be waited for

interface Waiting {
  resolve(result: unknown): void;
  reject(error: Error): void;
}

/**
 * One kernel as this page knows it.
 *
 * The kernel opens the comm when nbsight is loaded there. A page that comes later looks for it and asks
 * for the whole state; it never opens one itself, since a kernel without nbsight would log an error.
 */
export class KernelLink {
  readonly mirror = new Mirror();
  /** Jobs that were running when the kernel went away; a page remembers them. */
  lost: JobRow[] = [];
  private comm: Kernel.IComm | null = null;
  /** A comm that this page has must not be created again. */
  private readonly comms = new Map<string, Kernel.IComm>();
  private readonly waiting = new Map<string, Waiting>();
  private slow = 0;
  private readonly changes = new Signal<this, void>(this);
  private readonly ends = new Signal<this, JobRow>(this);

  constructor(readonly kernel: Kernel.IKernelConnection) {
    kernel.registerCommTarget(TARGET, this.accept);
    kernel.statusChanged.connect(this.onStatus, this);
    void this.look();
  }

  get changed(): ISignal<this, void> {
    return this.changes;
  }

  /** A job that was running has come to an end. */
  get jobEnded(): ISignal<this, JobRow> {
    return this.ends;
  }

  get isConnected(): boolean {
    return this.comm !== null;
  }

  /** How many questions have waited for a second. */
  get waitingLong(): number {
    return this.slow;
  }

  get jobs(): JobRow[] {
    return [...this.lost, ...(this.mirror.state?.jobs ?? [])];
  }

  /** Whether nbsight is loaded in the kernel; found out by asking for its comm. */
  async look(): Promise<boolean> {
    const reply = await this.kernel.requestCommInfo({ target_name: TARGET }).catch(() => null);
    if (reply?.content.status !== 'ok' || this.comm || this.kernel.isDisposed) {
      return this.comm !== null;
    }
    const id = Object.keys(reply.content.comms)[0];
    if (id === undefined) {
      this.changes.emit();
      return false;
    }
    this.bind(this.comms.get(id) ?? this.kernel.createComm(TARGET, id));
    this.refresh();
    return true;
  }

  refresh(): void {
    this.send({ op: 'get' });
  }

  /** Load the extension: the one time that this page runs code, and only when it is told to. */
  async load(): Promise<void> {
    const future = this.kernel.requestExecute({
      code: '%load_ext nbsight',
      silent: true,
      store_history: false,
      stop_on_error: false
    });
    let said = '';
    future.onIOPub = message => {
      if (message.header.msg_type === 'stream' || message.header.msg_type === 'error') {
        const content = message.content as { text?: string; evalue?: string };
        said += content.text ?? content.evalue ?? '';
      }
    };
    const reply = await future.done;
    if (reply?.content.status === 'error') {
      const { ename, evalue } = reply.content as { ename: string; evalue: string };
      throw new Error(`${ename}: ${evalue}`);
    }
    if (!this.comm && !(await this.look())) {
      throw new Error(said.trim() || 'nbsight did not open its comm.');
    }
  }

  /** Ask the kernel to do something; an answer may come when the running cell is over. */
  request<T>(op: string, data: object = {}): Promise<T> {
    if (!this.comm) {
      return Promise.reject(new Error('nbsight is not loaded in this kernel.'));
    }
    const id = uniqueId('ask');
    return new Promise<T>((resolve, reject) => {
      let isSlow = false;
      const timer = window.setTimeout(() => {
        isSlow = true;
        this.slow += 1;
        this.changes.emit();
      }, SLOW);
      const settle = () => {
        window.clearTimeout(timer);
        this.waiting.delete(id);
        if (isSlow) {
          this.slow -= 1;
          this.changes.emit();
        }
      };
      this.waiting.set(id, {
        resolve: result => {
          settle();
          resolve(result as T);
        },
        reject: error => {
          settle();
          reject(error);
        }
      });
      this.send({ ...data, op, id });
    });
  }

  dispose(): void {
    this.kernel.statusChanged.disconnect(this.onStatus, this);
    if (!this.kernel.isDisposed) {
      this.kernel.removeCommTarget(TARGET, this.accept);
    }
    this.forget('the notebook was closed');
    Signal.clearData(this);
  }

  // -- messages ---------------------------------------------------------------------------------

  private readonly accept = (comm: Kernel.IComm, message: KernelMessage.ICommOpenMsg) => {
    this.bind(comm);
    this.take(message.content.data as unknown as Message);
  };

  private bind(comm: Kernel.IComm): void {
    this.comm = comm;
    this.comms.set(comm.commId, comm);
    comm.onMsg = message => {
      if (this.comm === comm) {
        this.take(message.content.data as unknown as Message);
      }
    };
    comm.onClose = () => {
      this.comms.delete(comm.commId);
      if (this.comm === comm) {
        this.forget('nbsight was unloaded');
      }
    };
    this.changes.emit();
  }

  private take(message: Message): void {
    if (message.op === 'reply') {
      const waiting = this.waiting.get(message.id);
      if (message.ok) {
        waiting?.resolve(message.result);
      } else {
        waiting?.reject(new Error(message.error ?? message.type));
      }
      return;
    }
    const before = new Map((this.mirror.state?.jobs ?? []).map(job => [job.id, job]));
    if (!this.mirror.take(message)) {
      this.refresh();
    }
    if (message.op === 'job' && isOver(message.job)) {
      const known = before.get(message.job.id);
      if (known && !isOver(known)) {
        this.ends.emit(message.job);
      }
    }
    this.changes.emit();
  }

  private send(data: object): void {
    this.comm?.send(data as Parameters<Kernel.IComm['send']>[0]);
  }

  private onStatus(_: unknown, status: Kernel.Status): void {
    if (status === 'restarting' || status === 'autorestarting' || status === 'dead') {
      this.comms.clear();
      this.forget('the kernel was restarted');
    }
    this.changes.emit();
  }

  private forget(why: string): void {
    const jobs = this.mirror.state?.jobs ?? [];
    // An older kernel's job and a new kernel's may have the same number.
    const lost = jobs
      .filter(job => !isOver(job))
      .map(job => ({ ...job, id: uniqueId(job.id), state: 'lost' as const }));
    this.lost = [...this.lost, ...lost].slice(-20);
    this.comm = null;
    this.mirror.clear();
    for (const waiting of [...this.waiting.values()]) {
      waiting.reject(new Error(`No answer: ${why}.`));
    }
    this.changes.emit();
    for (const job of lost) {
      this.ends.emit(job);
    }
  }
}
