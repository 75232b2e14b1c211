import { findTool, runTool } from './tool.js';

/** What `e2fsck -fn` says of the file system in a file: it looks at everything and changes nothing. */
export type FileSystemState = 'clean' | 'not clean' | 'not checked';

/** @returns `not checked` where there is no e2fsck. */
export async function checkFileSystem(path: string, signal: AbortSignal): Promise<FileSystemState> {
  const e2fsck = await findTool('e2fsck');
  if (!e2fsck) return 'not checked';
  const { succeeded } = await runTool(e2fsck, ['-fn', path], signal);
  return succeeded ? 'clean' : 'not clean';
}
