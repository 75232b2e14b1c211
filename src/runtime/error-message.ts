import { CofferdamError, messageOf, type ErrorCode } from './errors.js';

/** An error as it crosses from one thread to another: structured cloning keeps only the message of an Error. */
export interface ErrorMessage {
  code: ErrorCode | undefined;
  message: string;
  offsetBytes: number | undefined;
  lengthBytes: number | undefined;
}

export function errorToMessage(error: unknown): ErrorMessage {
  const known = error instanceof CofferdamError ? error : undefined;
  return {
    code: known?.code,
    message: messageOf(error),
    offsetBytes: known?.offsetBytes,
    lengthBytes: known?.lengthBytes,
  };
}

/** What to do about a target that is full. */
export const roomAdvice = 'make room there, or give another place, and try again';

/** What a job is about, for its errors. */
export interface JobNames {
  /** ID of the device that is copied or restored. */
  device: string;
  /** The image of a copy, or the path that a restore writes to. */
  target: string | undefined;
}

/** The error again, on the receiving side, where it is known what the job is about. */
export function errorFromMessage(message: ErrorMessage, names: JobNames): Error {
  const { code, offsetBytes, lengthBytes } = message;
  if (code === undefined) return new Error(message.message);
  const target = code.startsWith('TARGET_') ? names.target : undefined;
  const advice = code === 'TARGET_FULL' ? `; ${roomAdvice}` : '';
  return new CofferdamError(code, `${target ?? `device ${names.device}`}: ${message.message}${advice}`, {
    device: target ?? names.device,
    ...(offsetBytes === undefined ? {} : { offsetBytes }),
    ...(lengthBytes === undefined ? {} : { lengthBytes }),
  });
}
