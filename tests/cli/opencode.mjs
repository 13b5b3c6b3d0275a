// Loads a plugin as opencode does, once for each directory, and calls its hooks as opencode does.
//
// usage: node opencode.mjs PLUGIN DIRECTORY... < STEPS
// A step is a line: { at: which directory, hook, input, output } for a hook, { at, event } for an event, { at, dispose: true },
// or { at, session: { id, parentID } } for a session that exists. The answer is a line: what was thrown, and the output.
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const [plugin, ...directories] = process.argv.slice(2);
const exported = Object.values(await import(pathToFileURL(plugin)));
const sessions = new Map();
const client = { session: { get: async ({ path }) => ({ data: sessions.get(path.id) }) } };
const loaded = await Promise.all(directories.map((directory) => {
    const input = { client, directory, worktree: directory, project: { id: directory } };
    return Promise.all(exported.map((load) => load(input)));
}));

for await (const line of createInterface({ input: process.stdin })) {
    const step = JSON.parse(line);
    let thrown = null;
    try {
        if (step.session) sessions.set(step.session.id, step.session);
        // One after the other; what a hook returns counts for nothing, and what it throws ends the call.
        for (const hooks of loaded[step.at]) {
            if (step.hook) await hooks[step.hook]?.(step.input, step.output);
            if (step.event) await hooks.event?.({ event: step.event });
            if (step.dispose) await hooks.dispose?.();
        }
    } catch (error) {
        thrown = error.message;
    }
    console.log(JSON.stringify({ thrown, output: step.output ?? null }));
}
