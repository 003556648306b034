//! What Prometheus makes of natgate's metrics: a real one scrapes it, with the rules that are shipped (topology: `vm_test::rig`).
//!
//! ```text
//!  c1 ── node ── gw (natgate --metrics ← prometheus) ── r ── s1
//! ```

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vm_test::client::{echo_datagram, udp};
use vm_test::namespace::output;
use vm_test::rig::S1;
use vm_test::{Options, Process, Rig, server, wait};

const METRICS: u16 = 9464;
const PROMETHEUS: &str = "127.0.0.1:9090";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

/// The names of natgate's metrics in a text of queries.
fn names(text: &str) -> BTreeSet<String> {
    let part = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    text.split(part).filter(|word| word.starts_with("natgate_")).map(str::to_owned).collect()
}

/// What is asked for in the dashboard and in the alerts.
fn asked() -> Result<(Vec<String>, BTreeSet<String>)> {
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(shipped("grafana/natgate.json"))?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let queries: Vec<String> = targets
        .filter_map(|target| target["expr"].as_str())
        .map(|query| query.replace("$__rate_interval", "1m").replace("$instance", ".*"))
        .collect();
    ensure!(queries.len() > 20, "only {} queries", queries.len());
    let alerts = std::fs::read_to_string(shipped("prometheus/alerts.yaml"))?;
    // Names in words for people are none.
    let lines =
        alerts.lines().filter(|line| !line.contains("summary:") && !line.contains("remedy:"));
    let all =
        names(&queries.join("\n")).into_iter().chain(names(&lines.collect::<Vec<_>>().join("\n")));
    Ok((queries, all.collect()))
}

fn ask(rig: &Rig, path: &str, query: &str) -> Result<Value> {
    let mut command = rig.gw.namespace.command("curl");
    command.args(["-sS", "--max-time", "5", "-G", &format!("http://{PROMETHEUS}{path}")]);
    command.args(["--data-urlencode", &format!("query={query}")]);
    let answer: Value = serde_json::from_str(&output(&mut command)?)?;
    ensure!(answer["status"] == "success", "{query}: {answer}");
    Ok(answer["data"].clone())
}

fn started(rig: &mut Rig) -> Result<()> {
    let mut arguments = rig.natgate_arguments()?;
    arguments.extend(["--metrics".to_owned(), format!("{}:{METRICS}", rig.gw.address())]);
    rig.natgate = Some(rig.launch_ready(&arguments)?);
    Ok(())
}

fn start_prometheus(rig: &Rig) -> Result<Process> {
    let file = rig.directory().join("prometheus.yml");
    let rules = shipped("prometheus/alerts.yaml");
    std::fs::write(
        &file,
        format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n - job_name: natgate\n   static_configs: [{{targets: ['{}:{METRICS}']}}]\n",
            rules.display(),
            rig.gw.address()
        ),
    )?;
    let mut command = rig.gw.namespace.command("prometheus");
    command.arg(format!("--config.file={}", file.display()));
    command.arg(format!("--storage.tsdb.path={}", rig.directory().join("tsdb").display()));
    command.arg(format!("--web.listen-address={PROMETHEUS}"));
    Process::start(command, "prometheus", rig.directory())
}

fn scraped(rig: &mut Rig) -> Result<()> {
    server::udp_echo(&rig.s1, S1[0], 7)?;
    let prometheus = start_prometheus(rig)?;
    let limit = Duration::from_secs(30);
    let said = wait::until("prometheus to scrape", limit, || {
        rig.pods[0].run(|| -> Result<()> {
            let socket = udp((S1[0], 7))?;
            (0..50).try_for_each(|n| echo_datagram(&socket, &[n; 64]))
        })??;
        let data = ask(rig, "/api/v1/query", "increase(natgate_packets_total[10s]) > 10");
        Ok(data.ok().filter(|data| data["result"].as_array().is_some_and(|it| it.len() == 4)))
    });
    said.with_context(|| prometheus.stderr())?;
    let (queries, names) = asked()?;
    for name in &names {
        let data = ask(rig, "/api/v1/query", &format!("count({name})"))?;
        ensure!(data["result"].as_array().is_some_and(|it| !it.is_empty()), "no metric {name}");
    }
    for query in queries {
        ask(rig, "/api/v1/query", &query)?;
    }
    let busy = ask(rig, "/api/v1/query", "natgate_busy_seconds_total > 0")?;
    ensure!(busy["result"].as_array().is_some_and(|it| !it.is_empty()), "nobody was busy");
    let half = "histogram_quantile(0.5, sum by (le) (natgate_latency_seconds_bucket))";
    wait::until("a packet to be timed", limit, || {
        let data = ask(rig, "/api/v1/query", half)?;
        let seconds = data["result"][0]["value"][1].as_str().and_then(|it| it.parse::<f64>().ok());
        Ok(seconds.filter(|seconds| (1e-7..1.0).contains(seconds)))
    })?;
    // A healthy natgate rings no bell, and the rules were all understood.
    let rules = ask(rig, "/api/v1/rules", "")?;
    let rules = rules["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
    ensure!(rules.len() > 8, "{rules:#?}");
    for rule in &rules {
        ensure!(rule["health"] == "ok", "{rule:#}");
        ensure!(rule["state"] == "inactive", "{rule:#}");
    }
    Ok(())
}

fn checked(rig: &mut Rig) -> Result<()> {
    let metrics = rig.natgate()?.metrics()?;
    let mut command = Command::new("promtool");
    let mut check =
        command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    check.stdin.take().context("no input")?.write_all(older(&metrics).as_bytes())?;
    let done = check.wait_with_output()?;
    let said = String::from_utf8_lossy(&done.stdout);
    ensure!(done.status.success() && said.trim().is_empty(), "promtool says: {said}");
    output(
        Command::new("promtool").args(["check", "rules"]).arg(shipped("prometheus/alerts.yaml")),
    )?;
    Ok(())
}

/// The older text format, which promtool reads: there a counter's family is named as its samples are.
fn older(text: &str) -> String {
    let counters: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter"))
        .collect();
    let mut older = String::new();
    for line in text.lines().filter(|line| *line != "# EOF") {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(kind), Some(name), Some(rest)) if counters.contains(name) => {
                older += &["# ", kind, " ", name, "_total ", rest, "\n"].concat();
            }
            _ => older += &[line, "\n"].concat(),
        }
    }
    older
}

#[test]
fn a_real_prometheus_understands_metrics_dashboard_and_alerts() {
    let mut rig = Rig::without_translator(Options::natgate()).expect("the rig starts");
    let done = started(&mut rig).and_then(|()| scraped(&mut rig));
    rig.must(done);
    let done = checked(&mut rig);
    rig.must(done);
}

/// Prometheus itself computes the alert of a pool that is about to run out, from `blocks` (a series in its notation, a
/// minute a step): it rings at the minutes `rings`, and at those alone of 5, 29, 45, 60.
fn rings_ahead(directory: &Path, blocks: &str, rings: &[u32]) -> Result<()> {
    let labels = "pool=\"p\",state=\"free\"";
    let mut test = format!(
        "rule_files: ['{}']\nevaluation_interval: 1m\ntests:\n- interval: 1m\n  \
         input_series: [{{series: 'natgate_pool_blocks{{{labels}}}', values: '{blocks}'}}]\n  alert_rule_test:\n",
        shipped("prometheus/alerts.yaml").canonicalize()?.display()
    );
    for minute in [5, 29, 45, 60] {
        let _ = write!(
            test,
            "  - {{alertname: NatgatePoolExhaustionAhead, eval_time: {minute}m, exp_alerts: ["
        );
        if rings.contains(&minute) {
            test += "{exp_labels: {pool: p, state: free, severity: warning}, exp_annotations: {\
                     summary: 'pool p has no free port block in two hours, if it goes on like this', \
                     remedy: 'add addresses to the pool, or lower quota.blocks'}}";
        }
        test += "]}\n";
    }
    let file = directory.join("exhaustion.yaml");
    std::fs::write(&file, test)?;
    output(Command::new("promtool").args(["test", "rules"]).arg(&file)).map(drop)
}

#[test]
fn the_alert_of_a_pool_running_out_rings_in_time_and_not_at_a_start() {
    let directory = tempfile::tempdir().unwrap();
    // 100 of 6,000 blocks a minute: none are left within the hour.
    rings_ahead(directory.path(), "6000-100x59 100", &[45, 60]).unwrap();
    // A gateway that starts: its first pods take 12 blocks in three minutes, then nothing.
    rings_ahead(directory.path(), "400-4x3 388x60", &[]).unwrap();
    // The negative control: what does not ring is told.
    let wrong = rings_ahead(directory.path(), "400-4x3 388x60", &[45]).unwrap_err();
    assert!(format!("{wrong:#}").contains("NatgatePoolExhaustionAhead"), "{wrong:#}");
}

/// The negative control: a name that there is not is found.
#[test]
fn names_are_read_from_queries() {
    let found = names("sum(rate(natgate_a_total{x=\"y\"}[5m])) / natgate_b");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["natgate_a_total", "natgate_b"]);
    let (_, asked) = asked().unwrap();
    assert!(asked.contains("natgate_mirror_lag_seconds") && asked.len() > 15, "{asked:?}");
}
