//! The dashboard and the alerts of docs/ against the metrics of mounts on each backend.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::servers::redis::RedisServer;
use crate::world::*;

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/prometheus/lockfs.rules.yml");
const DASHBOARD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/grafana/lockfs.json");

/// What Prometheus has of its own for each target: prometheus.io, "Jobs and instances".
const OF_PROMETHEUS: [&str; 1] = ["up"];

/// Labels that Prometheus gives, or that a query makes.
const GIVEN_LABELS: [&str; 2] = ["instance", "job"];

/// The samples of a mount without their values: `name{label="value"}`.
fn series(world: &World) -> BTreeSet<String> {
    let metrics = fs::read_to_string(world.path(".lockfs/metrics")).unwrap();
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

/// Everything that mounts export, on whichever backend.
fn exported() -> BTreeSet<String> {
    let server = RedisServer::start();
    let redis = ["--redis-url", &server.url()];
    let mut found = BTreeSet::new();
    for backend in ["leveldb", "redis", "hybrid"] {
        let world = World::new();
        let flags = if backend == "leveldb" { &[][..] } else { &redis[..] };
        world.mount(&[&["--backend", backend], flags].concat()).succeeds_silently();
        found.extend(series(&world));
    }
    found
}

/// The selectors of a query: the name of a metric, and its `label="value"`s.
fn selectors(query: &str) -> Vec<(String, Vec<(String, String)>)> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts =
        query.match_indices("lockfs_").map(|(at, _)| at).chain(query.starts_with("up{").then_some(0));
    starts
        .map(|at| {
            let name: String = query[at..].chars().take_while(|c| is_word(*c)).collect();
            let rest = &query[at + name.len()..];
            let labels = rest.strip_prefix('{').and_then(|rest| rest.split('}').next()).unwrap_or_default();
            let pairs = labels.split("\", ").filter(|pair| !pair.is_empty()).map(|pair| {
                let (label, value) = pair.split_once('=').unwrap_or_else(|| panic!("{query}: {pair}"));
                (
                    label.trim().to_owned(),
                    value.trim_start_matches(['~', '"']).trim_end_matches('"').to_owned(),
                )
            });
            (name, pairs.collect())
        })
        .collect()
}

/// Whether mounts export what `query` asks for; says what they don't.
fn check(query: &str, exported: &BTreeSet<String>) -> Result<(), String> {
    for (open, close) in [('(', ')'), ('{', '}'), ('[', ']')] {
        if query.matches(open).count() != query.matches(close).count() {
            return Err(format!("{query}: {open} and {close} do not pair"));
        }
    }
    let found = selectors(query);
    if found.is_empty() {
        return Err(format!("{query}: no metric"));
    }
    for (name, labels) in found {
        if OF_PROMETHEUS.contains(&name.as_str()) {
            continue;
        }
        let of_name: Vec<_> =
            exported.iter().filter(|sample| sample.split('{').next() == Some(name.as_str())).collect();
        if of_name.is_empty() {
            return Err(format!("{query}: no mount exports {name}"));
        }
        for (label, value) in labels {
            if GIVEN_LABELS.contains(&label.as_str()) {
                continue;
            }
            for value in value.split('|') {
                if !of_name.iter().any(|sample| sample.contains(&format!("{label}=\"{value}\""))) {
                    return Err(format!("{query}: no {name} has {label}=\"{value}\""));
                }
            }
        }
    }
    Ok(())
}

/// The queries of the rules, each with its runbook.
fn rules() -> Vec<(String, String)> {
    let text = fs::read_to_string(RULES).unwrap();
    let unquoted = |line: &str, key: &str| {
        let value = line.trim().strip_prefix(key)?.trim();
        Some(value.trim_matches(['"', '\'']).to_owned())
    };
    let queries = text.lines().filter_map(|line| unquoted(line, "expr:"));
    let runbooks = text.lines().filter_map(|line| unquoted(line, "runbook:"));
    let pairs: Vec<_> = queries.zip(runbooks).collect();
    assert_eq!(pairs.len(), text.matches("- alert:").count());
    pairs
}

/// What a script of Python finds in the dashboard, by lines.
fn in_dashboard(script: &str) -> Vec<String> {
    let script = format!("import json,sys\nboard=json.load(open(sys.argv[1]))\n{script}");
    let output = Command::new("python3").args(["-c", &script, DASHBOARD]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_what_mounts_export() {
    let exported = exported();
    let panels = in_dashboard("for p in board['panels']:\n  for t in p.get('targets',[]): print(t['expr'])");
    assert!(panels.len() > 30, "{panels:?}");
    let queries = rules().into_iter().map(|(query, _)| query).chain(panels);
    let wrong: Vec<_> = queries.filter_map(|query| check(&query, &exported).err()).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The check is one.
    assert!(check("lockfs_gone == 0", &exported).is_err());
    assert!(check("lockfs_events_total{event=\"vanish\"}", &exported).is_err());
}

#[test]
fn the_dashboard_takes_its_data_from_where_its_reader_says() {
    let sources = in_dashboard(
        "def walk(x):\n  if isinstance(x, dict):\n    if 'datasource' in x: print(json.dumps(x['datasource'], sort_keys=True))\n    \
         [walk(v) for v in x.values()]\n  elif isinstance(x, list): [walk(v) for v in x]\nwalk(board)",
    );
    assert!(sources.len() > 50);
    for source in sources {
        assert_eq!(source, r#"{"type": "prometheus", "uid": "${DS_PROMETHEUS}"}"#);
    }
    let variables = in_dashboard("for v in board['templating']['list']: print(v['type'], v['name'])");
    assert_eq!(variables, ["datasource DS_PROMETHEUS", "query instance"]);
    let ids = in_dashboard("for p in board['panels']: print(p['id'])");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "panels have numbers of their own");
}

#[test]
fn every_alert_leads_to_a_heading_of_the_runbook() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let anchor = |heading: &str| heading.trim().to_lowercase().replace(' ', "-");
    let headings: BTreeSet<_> =
        page.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor).collect();
    for (query, runbook) in rules() {
        let heading = runbook.strip_prefix("operations.md#").unwrap();
        assert!(headings.contains(heading), "{query}: {runbook}");
    }
}

#[test]
fn a_mount_that_goes_on_begins_no_new_series() {
    let mut server = RedisServer::start();
    let world = World::new();
    world.mount(&["--backend", "hybrid", "--redis-url", &server.url()]).succeeds_silently();
    let uptime = || {
        let metrics = fs::read_to_string(world.path(".lockfs/metrics")).unwrap();
        metrics.lines().find(|line| line.starts_with("lockfs_uptime_seconds ")).unwrap().to_owned()
    };
    let later = || {
        let before = (uptime(), series(&world));
        eventually("a second passes", || uptime() != before.0);
        (before.1, series(&world))
    };
    let (before, after) = later();
    assert_eq!(before, after);
    // Nor does an outage begin one with each second that it lasts.
    server.kill();
    let is_alone = |series: &BTreeSet<String>| series.iter().any(|sample| sample.contains("mode=\"alone\""));
    eventually("it stands alone", || is_alone(&series(&world)));
    let (before, after) = later();
    assert_eq!(before, after);
}
