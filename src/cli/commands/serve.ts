import type { Command } from 'commander';
import { readClusterFile } from '../../servers/cluster-config.js';
import { ControlApi } from '../../service/control-api.js';
import { ClusterService } from '../../service/service.js';
import { filled } from '../arguments.js';
import { addCommand, type CommandContext, type CommandHelp } from '../command.js';
import { inheritedDescriptor } from '../inherited-descriptors.js';
import { endOfServing, serveUntilStopped } from '../serving.js';

interface Flags {
  only?: string[];
  readyFd?: number;
}

const help: CommandHelp = {
  summary: 'serve the devices of a cluster over NBD',
  description:
    'Start the storage servers of a cluster file and export their devices, and volumes across them, over NBD.',
  example: `cofferdam serve cluster.yaml

cluster.yaml:
  listen: nbd+unix:///?socket=cofferdam.sock   # or nbd://HOST:PORT, or nbds://...?tls-certificates=DIR
  control: cofferdam-control.sock              # or http://HOST:PORT, with a token
  servers:
    - id: a
      device: { kind: file, path: a.img, create: 1GiB }
    - id: b
      device: { kind: file, path: b.img, create: 1GiB }
  volumes:
    - { id: data, kind: striped, stripe: 64KiB, of: [a, b] }`,
  remark: endOfServing,
};

export function addServe(program: Command, context: CommandContext): void {
  addCommand(program, 'serve', help)
    .argument('<cluster>', 'cluster file, YAML; paths in it are relative to it', filled('cluster'))
    .option('--only <ID...>', 'serve only these servers and volumes; others are served by other processes')
    .option(
      '--ready-fd <n>',
      'write READY to this file descriptor when all can be used',
      inheritedDescriptor('--ready-fd'),
    )
    .action((path: string, flags: Flags) => run(path, flags, context));
}

async function run(path: string, { only, readyFd }: Flags, context: CommandContext): Promise<void> {
  const config = await readClusterFile(path);
  await using service = await ClusterService.start(config, { only });
  const listen = service.controlAddress;
  await using control = listen && (await ControlApi.listen({ service, listen, token: config.token }));
  const lines = control ? [`control: ${control.uri}`] : [];
  await serveUntilStopped(context, { control: control?.uri ?? null }, service.exports, lines, readyFd);
}
