/** How long a call waits for its answer unless it says otherwise: 30 s. Streams wait for ever. */
export const DEFAULT_CALL_TIMEOUT_MS: number;

/** The connection has ended for good: the server has closed it so (1008, 4000 to 4999), or all attempts are used up. */
export class AgentConnectionError extends Error {
  constructor(how: { code: number; reason?: string; wasClean?: boolean });
  code: number;
  reason: string;
  wasClean: boolean;
}

/** A call has failed. */
export class AgentCallError extends Error {
  method: string;
  /**
   * What is known of the call:
   *
   * - `"answered"`: the agent has answered with this error.
   * - `"unsent"`: it has not left this page and never will. It can be called again without a doubt.
   * - `"unknown"`: it was sent, and its connection ended, or its time was over, before an answer came. It may have been applied, or
   *   still be: who calls again may do it twice.
   */
  outcome: "answered" | "unsent" | "unknown";
}

/** As much waits to be sent as may: there is no connection, or it is too slow. What was to be sent is not. */
export class AgentQueueFullError extends Error {}

/** Says whether a close is final: clients do not come back after 1008 and 4000 to 4999. */
export function isTerminalCloseEvent(event: { code: number }): boolean;

export type Query = Record<string, string | number | boolean | null | undefined>;

export interface StreamOptions {
  onChunk?: (chunk: any) => void;
  onDone?: (result: any) => void;
  onError?: (message: string) => void;
}

export interface CallOptions {
  /** In milliseconds; 0 for none. */
  timeout?: number;
  /** What comes before the result. A call with it has no timeout of its own accord. */
  stream?: StreamOptions;
}

export interface CloseInfo extends Event {
  code: number;
  reason: string;
  wasClean: boolean;
}

export interface ErrorInfo extends Event {
  error: Error;
  message: string;
}

export interface AgentClientOptions<State = unknown> {
  /** The class of the agent, such as `"FlightDesk"` or `"flight-desk"`. */
  agent: string;
  /** The name of the agent; `"default"` if it is missing. */
  name?: string;
  /**
   * The host, with or without a port and a scheme; that of the page if it is missing. Without a scheme, other hosts than the
   * page's are connected to by TLS, unless they are local.
   */
  host?: string;
  /** Instead of what follows from the host. */
  protocol?: "ws" | "wss";
  /** The whole path instead of `agents/<class>/<name>`. */
  basePath?: string;
  /** What is added to the path. */
  path?: string;
  /** What is added to the address, such as a token. A function is asked anew for each attempt. */
  query?: Query | (() => Query | Promise<Query>);
  /** What the connection calls itself, over all its reconnects. Two clients at a time must not have the same one. */
  id?: string;

  /** Called when the state has changed, by the agent (`"server"`) or by `setState` of this client (`"client"`). */
  onStateUpdate?: (state: State, source: "server" | "client") => void;
  /** Called when a state was refused. The true one follows. */
  onStateUpdateError?: (error: string, reason?: string) => void;
  /** Called when the agent has taken the connection. */
  onIdentity?: (name: string, agent: string) => void;
  /** Called when a reconnect has led to another agent than before. */
  onIdentityChange?: (oldName: string, newName: string, oldAgent: string, newAgent: string) => void;
  onOpen?: (event: Event) => void;
  /** Called whenever a connection, or an attempt to make one, has ended. Unless it was for good, the next attempt follows. */
  onClose?: (event: CloseInfo) => void;
  /** Called for each message of the agent: `event.data` is a text or an ArrayBuffer. Frames of the protocol are no messages. */
  onMessage?: (event: MessageEvent) => void;
  /** Called when a connection or an attempt has failed, or `query` has: before `onClose`, and with no more to be done about it. */
  onError?: (event: ErrorInfo) => void;
  /** Called when the connection has ended for good, but not after `close()`. */
  onConnectionError?: (error: AgentConnectionError) => void;

  /** In milliseconds; 30,000 if it is missing, 0 for none. */
  defaultCallTimeout?: number;
  /** How many frames may wait to be sent: 256 if it is missing. */
  maxEnqueuedMessages?: number;
  /** How many bytes of frames may wait to be sent: 1 MiB if it is missing. */
  maxEnqueuedBytes?: number;
  /** The longest wait for the first attempt to reconnect, in milliseconds: 500 if it is missing. It doubles with each further one. */
  minReconnectionDelay?: number;
  /** The longest wait for any attempt: 10,000 ms if it is missing. */
  maxReconnectionDelay?: number;
  /** How many attempts may fail in a row: any number if it is missing. */
  maxRetries?: number;
  /** How long an attempt may take: 10,000 ms if it is missing. */
  connectionTimeout?: number;
  /** After how long a silence the server is asked whether it is there: 30,000 ms if it is missing, 0 for never. */
  pingInterval?: number;
  /** How long the answer to that may take, before the connection counts as lost: 5,000 ms if it is missing. */
  pingTimeout?: number;
}

type Method = (...args: any[]) => any;
type Stub<Methods> = { [Name in keyof Methods]: Methods[Name] extends (...args: infer Args) => infer Result
  ? (...args: Args) => Promise<Awaited<Result>> : never };

export interface AgentClientEventMap<State = unknown> {
  open: Event;
  close: CloseInfo;
  message: MessageEvent;
  error: ErrorInfo;
  state: CustomEvent<{ state: State; source: "server" | "client" }>;
}

/** A connection to an agent, which is opened again whenever it is lost. */
export class AgentClient<State = any, Methods = Record<string, Method>> extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;

  constructor(options: AgentClientOptions<State>);

  /** The state as this page knows it: what the agent has sent, or what was set here and is on its way. `undefined` before there is one. */
  readonly state: State | undefined;
  /** The class of the agent as paths have it. */
  readonly agent: string;
  readonly name: string;
  /** What the connection calls itself. */
  readonly id: string;
  /** Who has answered last, if anybody has. */
  readonly identity: { name: string; agent: string } | null;
  /** Whether the agent has taken the connection that there is. */
  readonly identified: boolean;
  /** Why there will be no connection any more, if that is so. */
  readonly connectionError: AgentConnectionError | null;
  readonly readyState: 0 | 1 | 2 | 3;
  /** Of the last attempt. */
  readonly url: string;
  /** How many bytes wait to be sent. */
  readonly bufferedAmount: number;
  /**
   * Resolves when the agent has taken the connection, and its state, if it has one, is here. After a reconnect it is another one. It
   * rejects when the connection has ended for good.
   */
  readonly ready: Promise<void>;

  /** The methods of the agent: `stub.book(trip)` is `call("book", [trip])`. */
  readonly stub: Stub<Methods>;

  /** Calls a method of the agent. The error is an AgentCallError, or an AgentQueueFullError. */
  call<Result = any>(method: string, args?: unknown[], options?: CallOptions | StreamOptions): Promise<Result>;
  /**
   * Sets the state, here at once and then there. Without a connection, only the newest is sent later. It throws an AgentQueueFullError,
   * or an AgentConnectionError when the connection has ended for good.
   */
  setState(state: State): void;
  /** Sends a message, at once or when there is a connection again. It returns whether it was sent at once, and throws as setState does. */
  send(data: string | ArrayBuffer | ArrayBufferView): boolean;
  /** Ends it. What waits is not sent, what waits for answers is rejected. */
  close(code?: number, reason?: string): void;
  /** Connects anew, also after `close()`. */
  reconnect(): void;

  addEventListener<K extends keyof AgentClientEventMap<State>>(
    type: K, listener: (event: AgentClientEventMap<State>[K]) => void, options?: boolean | AddEventListenerOptions): void;
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
}
