//! The process metrics of Prometheus's own client libraries. Read from `/proc` at each scrape, so
//! they exist on Linux only.

use std::fmt;
use std::fs::{read_dir, read_to_string};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let stat = read_to_string("/proc/self/stat").ok();
        if let Some(Stat { cpu, started, resident }) = stat.as_deref().and_then(read) {
            let (name, help) = ("process_cpu_seconds", "User and system CPU time");
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(cpu).encode(metric)?;
            let help = "Memory that the process has in RAM";
            gauge(&mut encoder, "process_resident_memory_bytes", help, resident)?;
            let system = read_to_string("/proc/stat").unwrap_or_default();
            if let Some(booted) = booted(&system) {
                let help = "Start of the process, seconds since 1970";
                gauge(&mut encoder, "process_start_time_seconds", help, booted + started)?;
            }
        }
        if let Ok(open) = read_dir("/proc/self/fd") {
            // One of them is the open directory itself.
            let open = u64::try_from(open.count().saturating_sub(1)).unwrap_or(u64::MAX);
            gauge(&mut encoder, "process_open_fds", "Open file descriptors", open)?;
        }
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        gauge(&mut encoder, "process_max_fds", "File descriptors that may be open", most)
    }
}

fn gauge<N>(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: N) -> fmt::Result
where
    ConstGauge<N>: EncodeMetric,
    N: EncodeGaugeValue,
{
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value).encode(metric)
}

/// From `/proc/self/stat`, in seconds and bytes.
struct Stat {
    cpu: f64,
    /// Since boot.
    started: f64,
    resident: u64,
}

/// See `proc_pid_stat(5)`. The program's name comes before the last bracket.
fn read(stat: &str) -> Option<Stat> {
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let number = |number: usize| fields.get(number - 3)?.parse::<u32>().ok().map(f64::from);
    let seconds = |ticks: f64| ticks / ticks_per_second();
    let pages: u64 = fields.get(24 - 3)?.parse().ok()?;
    let resident = pages.saturating_mul(u64::try_from(page_size()).ok()?);
    Some(Stat { cpu: seconds(number(14)? + number(15)?), started: seconds(number(22)?), resident })
}

fn ticks_per_second() -> f64 {
    f64::from(u32::try_from(clock_ticks_per_second()).unwrap_or(100))
}

fn booted(system: &str) -> Option<f64> {
    system.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn the_process_tells_what_it_takes() {
        let text = Metrics::default().render();
        let value = |name: &str| {
            let mut lines = text.lines();
            let found = lines.find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
            found.unwrap_or_else(|| panic!("{name}: {text}"))
        };
        assert!(value("process_cpu_seconds_total") >= 0.0);
        assert!(value("process_resident_memory_bytes") > 1_000_000.0);
        assert!(value("process_open_fds") > 2.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        let since = jiff::Timestamp::now().as_duration().as_secs_f64()
            - value("process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&since), "{since}");
    }

    #[test]
    fn a_program_may_be_named_with_brackets() {
        let stat = "1 (a) b) R 0 0 0 0 0 0 0 0 0 0 150 50 0 0 0 0 1 0 200 0 3 0";
        let Stat { cpu, started, resident } = read(stat).unwrap();
        let hz = ticks_per_second();
        assert_eq!((cpu, started), (200.0 / hz, 200.0 / hz));
        assert_eq!(resident, 3 * page_size() as u64);
        assert!(read("nonsense").is_none());
    }
}
