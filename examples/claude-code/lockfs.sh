#!/bin/sh
# The hook of Claude Code: hands what it is asked to `lockfs hook claude-code`, and its answer back.
#
# Claude Code takes every exit code but 0 and 2 for "go on". So what lockfs can't answer itself, because it is missing or
# broken, is answered here: an edit is asked about, never waved through.
set -u
asked=$(cat)
answer=$(printf '%s' "$asked" | "${LOCKFS:-lockfs}" hook claude-code)
code=$?
# 1: an answer too. It could not renew or release, which no tool call has to wait for.
if [ "$code" -gt 1 ] && printf '%s' "$asked" | grep -q '"hook_event_name" *: *"PreToolUse"' &&
    printf '%s' "$asked" | grep -Eq '"tool_name" *: *"(Edit|MultiEdit|Write|NotebookEdit)"'; then
    answer='{"hookSpecificOutput":{"hookEventName":"PreToolUse","permissionDecision":"ask","permissionDecisionReason":"lockfs does not run (exit code '$code'): nobody knows whether another is editing this file"}}'
    code=0
fi
if [ -n "$answer" ]; then printf '%s\n' "$answer"; fi
exit "$code"
