// A plugin of opencode that keeps agents out of each other's files.
//
// Before a tool edits a file, the file's lock is acquired for the agent's session. A plugin refuses by throwing, and the
// model reads why. opencode has no "ask" for plugins (it declares permission.ask, and never calls it): where nobody
// knows who holds the lock the edit is refused too, with the words to ask the user.
//
// A session and its subagents are one session of locks, that of the first of them: else an agent that edits a file, and
// hands on a part of the work, would refuse it to its own helper.
//
// LOCKFS             the program (lockfs)
// LOCKFS_RELEASE_AT  "turn" releases each time the agent has answered, not only when its session is deleted or opencode ends
// LOCKFS_TTL         how long a lock outlives the last tool call (what the mount says)
// LOCKFS_HOOK        "off" does nothing: for the user who wants to edit although the locks can't be reached
import { spawn } from "node:child_process"
import { resolve } from "node:path"

// opencode calls each export as a plugin: let this be the only one.
export const Lockfs = async ({ client, directory }) => {
  if (process.env.LOCKFS_HOOK === "off") return {}

  const parents = new Map() // of each session that is known, its parent or undefined
  const begun = new Set() // the sessions that may hold something

  const lockfs = (...words) =>
    new Promise((done) => {
      const child = spawn(process.env.LOCKFS ?? "lockfs", ["hook", ...words], {
        cwd: directory,
        stdio: ["ignore", "ignore", "pipe"],
      })
      let said = ""
      child.stderr.on("data", (data) => (said += data))
      child.on("error", (error) => done({ code: undefined, said: `cannot run lockfs: ${error.message}` }))
      child.on("close", (code) => done({ code, said: said.trim() }))
    })

  // The session that began it all.
  const first = async (id) => {
    for (;;) {
      if (!parents.has(id)) {
        const found = await client.session.get({ path: { id } }).catch(() => undefined)
        if (!found?.data) return id
        parents.set(id, found.data.parentID)
      }
      const parent = parents.get(id)
      if (!parent) return id
      id = parent
    }
  }

  const release = async (session) => {
    if (begun.delete(session)) await lockfs("release", "--session", session)
  }

  return {
    "tool.execute.before": async ({ tool, sessionID }, { args }) => {
      const session = await first(sessionID)
      const files = edited(tool, args)
      if (!files) {
        if (begun.has(session)) await lockfs("renew", "--session", session)
        return
      }
      const ask = "Ask the user before you edit it; they can look with `lockfs status`."
      if (files.length === 0) throw new Error(`lockfs cannot tell which file ${tool} edits. ${ask}`)
      begun.add(session)
      const ttl = process.env.LOCKFS_TTL ? ["--ttl", process.env.LOCKFS_TTL] : []
      const paths = files.map((file) => resolve(directory, file))
      const { code, said } = await lockfs("acquire", "--session", session, ...ttl, "--", ...paths)
      if (code === 0) return
      if (code === 1) throw new Error(said)
      throw new Error(`${said || `lockfs does not run (exit code ${code})`}. ${ask}`)
    },

    // What the agent runs in a shell, `git commit` with its hook too, is of the same session.
    "shell.env": async ({ sessionID }, { env }) => {
      if (sessionID) env.LOCKFS_SESSION = await first(sessionID)
    },

    event: async ({ event }) => {
      const { info, sessionID } = event.properties ?? {}
      if (event.type === "session.created" || event.type === "session.updated") parents.set(info.id, info.parentID)
      if (event.type === "session.deleted") await release(info.id)
      if (event.type === "session.idle" && process.env.LOCKFS_RELEASE_AT === "turn") await release(sessionID)
    },

    dispose: async () => {
      await Promise.all([...begun].map(release))
    },
  }
}

// The files that a call edits; none where it can't be told; undefined for a tool that edits nothing.
const edited = (tool, args) => {
  if (["edit", "write", "multiedit"].includes(tool)) return args?.filePath ? [args.filePath] : []
  if (["patch", "apply_patch"].includes(tool)) {
    const lines = String(args?.patchText ?? "").split("\n")
    const named = lines.map((line) => /^\*\*\* (?:Add File|Update File|Delete File|Move to): (.+?)\r?$/.exec(line)?.[1])
    return named.filter(Boolean).map((name) => name.trim())
  }
}
