//! The hooks of examples/, run as the agents and git run them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::hooks::two_clones;
use crate::naming::{git, repository};
use crate::servers::redis::RedisServer;
use crate::world::*;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// A command with the environment of `world` in which `lockfs` is the one that is tested.
fn program(world: &World, name: &str) -> Command {
    let of_lockfs = world.command(&[]);
    let mut command = Command::new(name);
    command.env_clear();
    command.envs(of_lockfs.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("LOCKFS", env!("CARGO_BIN_EXE_lockfs")).env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What `command` says to `input`.
fn told(command: &mut Command, input: &str) -> Said {
    let mut child =
        command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}: run scripts/install-test-deps"));
    // Whoever does not read it all has its reasons.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    Said::from(child.wait_with_output().unwrap())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli").join(name)
}

// Claude Code

/// Installs the example into a clone, as its README says.
fn install_claude_code(clone: &Path) {
    fs::create_dir_all(clone.join(".claude/hooks")).unwrap();
    fs::copy(example("claude-code/lockfs.sh"), clone.join(".claude/hooks/lockfs.sh")).unwrap();
    fs::copy(example("claude-code/settings.json"), clone.join(".claude/settings.json")).unwrap();
}

/// What Claude Code does at an event in `clone`: the answer of its hooks, as a line.
fn claude(world: &World, clone: &Path, session: &str, rest: &str) -> String {
    let event = format!(
        r#"{{"session_id":"{session}","transcript_path":"/tmp/t.jsonl","cwd":"{0}","permission_mode":"default",{rest}}}"#,
        clone.display()
    );
    let mut node = program(world, "node");
    node.arg(script("claude_code.mjs")).arg(clone.join(".claude/settings.json")).arg(clone);
    told(&mut node, &event).succeeds().stdout
}

fn edit(clone: &Path, file: &str) -> String {
    let path = clone.join(file);
    format!(
        r#""hook_event_name":"PreToolUse","tool_name":"Edit","tool_use_id":"toolu_1","tool_input":{{"file_path":"{}","old_string":"a","new_string":"b"}}"#,
        path.display()
    )
}

#[test]
fn claude_code_is_refused_what_another_session_edits() {
    let (world, [a, b]) = two_clones();
    [&a, &b].into_iter().for_each(|clone| install_claude_code(clone));
    let says = |clone: &Path, session: &str, rest: &str, decision: &str| {
        let said = claude(&world, clone, session, rest);
        let start = format!("{{\"calls\":1,\"decision\":\"{decision}\",");
        assert!(said.starts_with(&start), "{session} {rest}: {said}");
        said
    };
    says(&a, "s1", r#""hook_event_name":"SessionStart","source":"startup""#, "none");
    // Granted is no "allow": the user's own permissions go on to count.
    says(&a, "s1", &edit(&a, "src/main.rs"), "none");
    let said = says(&b, "s2", &edit(&b, "src/main.rs"), "deny");
    assert!(said.contains("session s1") && said.contains("lockfs break"), "{said}");
    says(&b, "s2", &edit(&b, "src/lib.rs"), "none");
    says(
        &b,
        "s2",
        r#""hook_event_name":"PreToolUse","tool_name":"Read","tool_input":{"file_path":"/x"}"#,
        "none",
    );
    says(&a, "s1", r#""hook_event_name":"Stop","stop_hook_active":false"#, "none");
    says(&b, "s2", &edit(&b, "src/main.rs"), "deny");
    says(&a, "s1", r#""hook_event_name":"SessionEnd","reason":"other""#, "none");
    assert!(!world.path(".sessions/s1").exists());
    says(&b, "s2", &edit(&b, "src/main.rs"), "none");
}

#[test]
fn claude_code_asks_where_nobody_knows() {
    let mut server = RedisServer::start();
    let world = World::new();
    world.mount(&["--backend", "redis", "--redis-url", &server.url()]).succeeds_silently();
    let clone = repository(&world, "a", Some("git@example.org:team/app.git"));
    install_claude_code(&clone);
    let asks = |why: &str, what: &str| {
        let said = claude(&world, &clone, "s1", &edit(&clone, "x"));
        assert!(said.contains("\"decision\":\"ask\"") && said.contains(what), "{why}: {said}");
    };
    server.kill();
    asks("the store is gone", "nobody knows");
    let read = r#""hook_event_name":"PreToolUse","tool_name":"Read","tool_input":{"file_path":"/x"}"#;
    assert!(claude(&world, &clone, "s1", read).contains("\"decision\":\"none\""));
    world.umount(&["--lazy"]).succeeds_silently();
    asks("nothing is mounted", "no lockfs is mounted");
}

#[test]
fn claude_code_asks_where_lockfs_is_missing_or_broken() {
    let world = World::new();
    let clone = repository(&world, "a", None);
    for program_of_users in ["/nonexistent/lockfs", "false-70"] {
        let broken = world.dir.path().join("false-70");
        fs::write(&broken, "#!/bin/sh\nexit 70\n").unwrap();
        fs::set_permissions(&broken, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let lockfs = if program_of_users == "false-70" { broken } else { program_of_users.into() };
        let mut hook = program(&world, "sh");
        hook.arg(example("claude-code/lockfs.sh")).env("LOCKFS", lockfs);
        let said = told(&mut hook, &format!("{{\"session_id\":\"s\",{}}}", edit(&clone, "x")));
        assert_eq!(said.code, 0, "{}", said.stderr);
        assert!(said.stdout.contains("\"permissionDecision\":\"ask\""), "{}", said.stdout);
    }
}

#[test]
fn the_shells_of_claude_code_are_of_its_session() {
    let (world, [a, _]) = two_clones();
    install_claude_code(&a);
    let file = world.dir.path().join("env");
    let mut hook = program(&world, "sh");
    hook.arg(example("claude-code/lockfs.sh")).env("CLAUDE_ENV_FILE", &file);
    told(&mut hook, r#"{"session_id":"s1","hook_event_name":"SessionStart","source":"startup"}"#)
        .succeeds_silently();
    assert_eq!(fs::read_to_string(file).unwrap(), "export LOCKFS_SESSION=s1\n");
}

// opencode

/// Two instances of opencode with the plugin, in two directories; what each step comes to, as a line.
fn opencode(
    world: &World,
    directories: &[PathBuf],
    environment: &[(&str, &str)],
    steps: &[String],
) -> Vec<String> {
    // Where opencode finds it. It has a package.json there of its own.
    let plugins = world.dir.path().join(".opencode/plugins");
    fs::create_dir_all(&plugins).unwrap();
    fs::copy(example("opencode/lockfs.js"), plugins.join("lockfs.js")).unwrap();
    fs::write(world.dir.path().join(".opencode/package.json"), r#"{"type":"module"}"#).unwrap();
    let mut node = program(world, "node");
    node.arg(script("opencode.mjs")).arg(plugins.join("lockfs.js")).args(directories);
    node.envs(environment.iter().copied());
    let said = told(&mut node, &steps.iter().map(|step| format!("{step}\n")).collect::<String>()).succeeds();
    let lines: Vec<_> = said.stdout.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), steps.len(), "{lines:?}");
    lines
}

/// A call of a tool, before it happens.
fn call(at: usize, session: &str, tool: &str, args: &str) -> String {
    let input = format!(r#"{{"tool":"{tool}","sessionID":"{session}","callID":"c1"}}"#);
    format!(r#"{{"at":{at},"hook":"tool.execute.before","input":{input},"output":{{"args":{args}}}}}"#)
}

fn opencode_edit(at: usize, session: &str, file: &str) -> String {
    call(at, session, "edit", &format!(r#"{{"filePath":"{file}","oldString":"a","newString":"b"}}"#))
}

fn event(at: usize, kind: &str, properties: &str) -> String {
    format!(r#"{{"at":{at},"event":{{"type":"{kind}","properties":{properties}}}}}"#)
}

#[track_caller]
fn assert_went_on(line: &str) {
    assert!(line.starts_with("{\"thrown\":null,"), "{line}");
}

#[track_caller]
fn assert_refused(line: &str, part: &str) {
    assert!(!line.starts_with("{\"thrown\":null,") && line.contains(part), "no '{part}' in {line}");
}

#[test]
fn opencode_is_refused_what_another_session_edits() {
    let (world, clones) = two_clones();
    let patch = r#"{"patchText":"*** Begin Patch\n*** Update File: src/a\n@@\n-x\n+y\n*** Move to: src/main.rs\n*** End Patch"}"#;
    let steps = [
        opencode_edit(0, "ses_1", "src/main.rs"),
        opencode_edit(1, "ses_2", "src/main.rs"),
        call(1, "ses_2", "apply_patch", patch),
        call(1, "ses_2", "read", r#"{"filePath":"src/main.rs"}"#),
        call(1, "ses_2", "write", r#"{"filePath":"src/lib.rs","content":""}"#),
        call(1, "ses_2", "edit", "{}"),
        event(0, "session.idle", r#"{"sessionID":"ses_1"}"#),
        opencode_edit(1, "ses_2", "src/main.rs"),
        event(0, "session.deleted", r#"{"info":{"id":"ses_1"}}"#),
        opencode_edit(1, "ses_2", "src/main.rs"),
        r#"{"at":1,"dispose":true}"#.to_owned(),
        opencode_edit(0, "ses_3", "src/main.rs"),
    ];
    let lines = opencode(&world, &clones, &[], &steps);
    for went_on in [0, 3, 4, 6, 8, 9, 10, 11] {
        assert_went_on(&lines[went_on]);
    }
    for refused in [1, 2, 7] {
        assert_refused(&lines[refused], "session ses_1");
    }
    assert_refused(&lines[5], "Ask the user");
}

#[test]
fn a_subagent_of_opencode_has_the_locks_of_its_parent() {
    let (world, clones) = two_clones();
    let steps = [
        r#"{"at":0,"session":{"id":"ses_main"}}"#.to_owned(),
        r#"{"at":0,"session":{"id":"ses_known","parentID":"ses_main"}}"#.to_owned(),
        event(0, "session.created", r#"{"info":{"id":"ses_told","parentID":"ses_known"}}"#),
        opencode_edit(0, "ses_main", "x"),
        opencode_edit(0, "ses_told", "x"),
        event(0, "session.deleted", r#"{"info":{"id":"ses_told"}}"#),
        opencode_edit(1, "ses_other", "x"),
        r#"{"at":0,"hook":"shell.env","input":{"cwd":"/","sessionID":"ses_told"},"output":{"env":{}}}"#
            .to_owned(),
    ];
    let lines = opencode(&world, &clones, &[], &steps);
    assert_went_on(&lines[3]);
    assert_went_on(&lines[4]);
    assert_refused(&lines[6], "session ses_main");
    assert!(lines[7].contains(r#""env":{"LOCKFS_SESSION":"ses_main"}"#), "{}", lines[7]);
}

#[test]
fn opencode_releases_after_each_answer_where_it_is_told_to() {
    let (world, clones) = two_clones();
    let steps = [
        opencode_edit(0, "ses_1", "x"),
        event(0, "session.idle", r#"{"sessionID":"ses_1"}"#),
        opencode_edit(1, "ses_2", "x"),
    ];
    opencode(&world, &clones, &[("LOCKFS_RELEASE_AT", "turn")], &steps)
        .iter()
        .for_each(|line| assert_went_on(line));
}

#[test]
fn opencode_is_told_to_ask_where_nobody_knows() {
    let mut server = RedisServer::start();
    let world = World::new();
    world.mount(&["--backend", "redis", "--redis-url", &server.url()]).succeeds_silently();
    let clone = [repository(&world, "a", Some("git@example.org:team/app.git"))];
    server.kill();
    let step = [opencode_edit(0, "ses_1", "x")];
    assert_refused(&opencode(&world, &clone, &[], &step)[0], "Ask the user");
    world.umount(&["--lazy"]).succeeds_silently();
    assert_refused(&opencode(&world, &clone, &[], &step)[0], "Ask the user");
    assert_refused(&opencode(&world, &clone, &[("LOCKFS", "/nonexistent")], &step)[0], "Ask the user");
    assert_went_on(&opencode(&world, &clone, &[("LOCKFS_HOOK", "off")], &step)[0]);
}

// git

/// Commits all in `clone`, with the example as its hook.
fn commit(world: &World, clone: &Path, environment: &[(&str, &str)]) -> Said {
    fs::copy(example("git/pre-commit"), clone.join(".git/hooks/pre-commit")).unwrap();
    let mut command = program(world, "setsid");
    // Without a terminal: who runs the tests is not to be asked.
    command.args([
        "--wait",
        "git",
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "commit",
        "-q",
        "-a",
        "-m",
        "more",
    ]);
    told(command.current_dir(clone).envs(environment.iter().copied()), "")
}

#[test]
fn git_refuses_to_commit_what_another_is_editing() {
    let (world, [a, b]) = two_clones();
    let file = a.join("file");
    world.lockfs(&["hook", "acquire", "--session", "s1", file.to_str().unwrap()]).succeeds_silently();
    fs::write(b.join("file"), "b").unwrap();
    let said = commit(&world, &b, &[]);
    assert_eq!(said.code, 1);
    for part in ["file (lock repo/example.org/team/app/file) is held by", "session s1", "--no-verify"] {
        assert!(said.stderr.contains(part), "{}", said.stderr);
    }
    // The one who edits may, and what nobody edits everybody.
    fs::write(a.join("file"), "a").unwrap();
    assert_eq!(commit(&world, &a, &[("LOCKFS_SESSION", "s1")]).code, 0);
    fs::write(b.join("more"), "").unwrap();
    git(&b, &["checkout", "-q", "file"]);
    git(&b, &["add", "more"]);
    assert_eq!(commit(&world, &b, &[]).code, 0);
    world.lockfs(&["hook", "release", "--session", "s1"]).succeeds_silently();
    fs::write(b.join("file"), "b").unwrap();
    assert_eq!(commit(&world, &b, &[]).code, 0);
}

#[test]
fn git_commits_nothing_where_nobody_knows_and_nobody_can_be_asked() {
    let (world, [a, _]) = two_clones();
    fs::write(a.join("file"), "a").unwrap();
    world.umount(&[]).succeeds_silently();
    let said = commit(&world, &a, &[]);
    assert!(said.code == 1 && said.stderr.contains("nobody knows"), "{}", said.stderr);
    let said = commit(&world, &a, &[("LOCKFS", "/nonexistent")]);
    assert!(said.code == 1 && said.stderr.contains("nobody knows"), "{}", said.stderr);
}

#[test]
fn git_asks_on_the_terminal_where_nobody_knows() {
    let (world, [a, _]) = two_clones();
    world.umount(&[]).succeeds_silently();
    fs::copy(example("git/pre-commit"), a.join(".git/hooks/pre-commit")).unwrap();
    for (answer, code) in [("n", 1), ("y", 0)] {
        fs::write(a.join("file"), answer).unwrap();
        // script(1) gives it a terminal, on which its own stdin is typed.
        let mut command = program(&world, "script");
        let line = "git -c user.name=a -c user.email=a@b commit -q -a -m more";
        command.args(["--quiet", "--return", "--command", line, "/dev/null"]).current_dir(&a);
        let said = told(&mut command, &format!("{answer}\n"));
        assert!(said.stdout.contains("commit all the same? [y/N]"), "{}", said.stdout);
        assert_eq!(said.code, code, "{}", said.stdout);
    }
}
