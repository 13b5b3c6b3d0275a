// Calls the hooks of a settings.json as Claude Code does, and takes their answers as it does.
//
// usage: node claude_code.mjs SETTINGS PROJECT < EVENT
// Of the event's hooks those run whose matcher is empty, "*" or a regular expression for all of the tool's name. The event
// is on their stdin. Exit code 2 blocks; 0 with JSON on stdout is a decision; every other code lets the call happen.
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

const [settings, project] = process.argv.slice(2);
const input = readFileSync(0, 'utf8');
const event = JSON.parse(input);
const groups = JSON.parse(readFileSync(settings, 'utf8')).hooks[event.hook_event_name] ?? [];

const matches = ({ matcher }) => !matcher || matcher === '*' || new RegExp(`^(?:${matcher})$`).test(event.tool_name ?? '');
const answers = groups.filter(matches).flatMap(({ hooks }) => hooks).map(({ type, command, timeout }) => {
    if (type !== 'command') throw new Error(`a hook of type ${type}`);
    const env = { ...process.env, CLAUDE_PROJECT_DIR: project };
    const { status, stdout, stderr } = spawnSync(command, {
        shell: true, input, cwd: event.cwd, env, encoding: 'utf8', timeout: timeout * 1000,
    });
    if (status === 2) return { decision: 'deny', reason: stderr };
    const output = status === 0 && stdout.trim() ? JSON.parse(stdout).hookSpecificOutput : undefined;
    if (output && output.hookEventName !== event.hook_event_name) throw new Error(stdout);
    return { decision: output?.permissionDecision ?? 'none', reason: output?.permissionDecisionReason ?? '', status, stderr };
});
console.log(JSON.stringify({ calls: answers.length, ...answers[0] }));
