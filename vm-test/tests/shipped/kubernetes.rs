//! Does what is shipped for Kubernetes fit the program?

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use saphyr::{LoadableYamlNode, Yaml};
use vm_test::binary::natgate_binary;

use crate::unit::settings;

/// The documents of `deploy/kubernetes/gateway.yaml`, as text.
fn manifest() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kubernetes/gateway.yaml");
    Ok(std::fs::read_to_string(path)?)
}

fn document<'a>(documents: &'a [Yaml<'a>], kind: &str) -> Result<&'a Yaml<'a>> {
    documents.iter().find(|it| it["kind"].as_str() == Some(kind)).context(kind.to_owned())
}

fn texts(list: &Yaml<'_>) -> Result<Vec<String>> {
    let list = list.as_sequence().context("no list")?;
    list.iter().map(|it| Ok(it.as_str().context("no text")?.to_owned())).collect()
}

#[test]
fn the_objects_of_the_manifest_are_valid() -> Result<()> {
    let manifest = manifest()?;
    let documents = Yaml::load_from_str(&manifest)?;
    let objects = document(&documents, "ConfigMap")?["data"]["natgate.yaml"].as_str();
    let directory = tempfile::tempdir()?;
    // As the kubelet lays them: links to a directory that is swapped as a whole.
    let data = directory.path().join("..2026_11_29");
    std::fs::create_dir(&data)?;
    std::fs::write(data.join("natgate.yaml"), objects.context("no objects")?)?;
    std::os::unix::fs::symlink("..2026_11_29", directory.path().join("..data"))?;
    std::os::unix::fs::symlink("..data/natgate.yaml", directory.path().join("natgate.yaml"))?;
    let mut command = Command::new(natgate_binary()?);
    let checked = command.args(["check", "--config"]).arg(directory.path()).output()?;
    let said = String::from_utf8_lossy(&checked.stderr);
    ensure!(checked.status.success(), "{said}");
    let shown = String::from_utf8_lossy(&checked.stdout);
    ensure!(shown.contains("203.0.113.10-203.0.113.13"), "{shown}");
    Ok(())
}

#[test]
fn the_pod_of_the_manifest_starts_natgate_as_the_unit_does() -> Result<()> {
    let manifest = manifest()?;
    let documents = Yaml::load_from_str(&manifest)?;
    let pod = &document(&documents, "DaemonSet")?["spec"]["template"]["spec"];
    ensure!(pod["hostNetwork"].as_bool() == Some(true));
    let container = &pod["containers"][0];
    let capabilities = &container["securityContext"]["capabilities"];
    ensure!(texts(&capabilities["drop"])? == ["ALL"]);
    let added = texts(&capabilities["add"])?.into_iter().map(|it| format!("CAP_{it}"));
    let (added, unit) = (added.collect::<BTreeSet<_>>(), settings("CapabilityBoundingSet")?);
    let unit = unit.iter().flat_map(|line| line.split_whitespace());
    ensure!(added == unit.map(str::to_owned).collect(), "{added:?}");
    // Its flags are known: what natgate complains of is that there are no objects here.
    let mut arguments = texts(&container["args"])?;
    let config = arguments.iter().position(|it| it == "/etc/natgate").context("no objects")?;
    let nowhere = tempfile::tempdir()?;
    arguments[config] = nowhere.path().join("none").to_string_lossy().into_owned();
    let started = Command::new(natgate_binary()?).args(&arguments).output()?;
    let said = String::from_utf8_lossy(&started.stderr);
    ensure!(started.status.code() == Some(2) && said.contains("/none"), "{said}");
    // What its volumes keep is where natgate puts it.
    let mounts = container["volumeMounts"].as_sequence().context("no mounts")?;
    let mounts: BTreeSet<_> = mounts.iter().filter_map(|it| it["mountPath"].as_str()).collect();
    ensure!(mounts == BTreeSet::from(["/etc/natgate", "/run/natgate", "/var/lib/natgate"]));
    Ok(())
}
