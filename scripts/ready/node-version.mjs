/**
 * Says why this Node cannot be used, or nothing if it can.
 *
 * @param {string} range from package.json, of the forms `^20.19` and `>=22.12`, joined by `||`.
 * @param {string} version such as `20.19.4`.
 * @returns {string | undefined}
 */
export function refuseNode(range, version) {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  for (const part of range.split('||')) {
    const match = /^\s*(\^|>=)(\d+)\.(\d+)\s*$/.exec(part);
    if (!match) throw new Error(`engines.node: cannot read "${part}"`);
    const [wantedMajor, wantedMinor] = [Number(match[2]), Number(match[3])];
    if (major === wantedMajor && minor >= wantedMinor) return undefined;
    if (match[1] === '>=' && major > wantedMajor) return undefined;
  }
  return `this is Node ${version}, but cofferdam needs ${range.replace('||', 'or')}; install one of these and run the command again`;
}
