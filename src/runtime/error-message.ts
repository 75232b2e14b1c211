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

/** The error again, on the receiving side, where it is known which device it is about: `device` is its ID. */
export function errorFromMessage(message: ErrorMessage, device: string): Error {
  if (message.code === undefined) return new Error(message.message);
  return new CofferdamError(message.code, `device ${device}: ${message.message}`, {
    device,
    ...(message.offsetBytes === undefined ? {} : { offsetBytes: message.offsetBytes }),
    ...(message.lengthBytes === undefined ? {} : { lengthBytes: message.lengthBytes }),
  });
}
