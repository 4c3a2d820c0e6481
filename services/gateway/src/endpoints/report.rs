//! `GET /1.0/debug/report`: measurements of the system at one moment.

use std::collections::BTreeMap;

use api::v1::{Metric, MetricsReport};

use crate::{Gateway, answer::Answer, dispatch::Call, failure::Failure};

const MEDIA_TYPE: &str = "application/vnd.incusos.metrics+json";

pub(crate) async fn get(call: Call) -> Result<Answer, Failure> {
    let wanted: Vec<_> = call.query.all("match").filter(|name| !name.is_empty()).collect();
    let is_wanted = |metric: &Metric| wanted.is_empty() || wanted.iter().any(|name| metric.name.starts_with(name));
    let timestamp = jiff::Timestamp::from_second(call.gateway.machine.clock().now).unwrap_or_default();
    Ok(Answer::document(&MetricsReport {
        media_type: MEDIA_TYPE.to_owned(),
        timestamp: timestamp.to_string(),
        metrics: measure(&call.gateway).into_iter().filter(is_wanted).collect(),
    }))
}

#[expect(clippy::cast_precision_loss, reason = "measurements, in a format that has only floats")]
fn measure(gateway: &Gateway) -> Vec<Metric> {
    let machine = &gateway.machine;
    let mut metrics = vec![metric("system_uptime_seconds", machine.uptime_seconds() as f64)];
    metrics.extend(memory(&machine.memory()));
    metrics.extend(load(&machine.load()));
    for (listener, open) in gateway.open_connections() {
        let object = listener.to_owned();
        metrics.push(Metric { object, ..metric("gateway_connections_open", open as f64) });
    }
    metrics.push(metric("gateway_journal_readers_open", gateway.open_journal_readers() as f64));
    metrics
}

fn metric(name: &str, value: f64) -> Metric {
    Metric { name: name.to_owned(), value, ..Metric::default() }
}

/// Reads `/proc/meminfo`: `MemTotal:  2048 kB`.
fn memory(text: &str) -> impl Iterator<Item = Metric> {
    const NAMES: [(&str, &str); 4] = [
        ("MemTotal", "system_memory_total_bytes"),
        ("MemAvailable", "system_memory_available_bytes"),
        ("SwapTotal", "system_swap_total_bytes"),
        ("SwapFree", "system_swap_free_bytes"),
    ];
    text.lines().filter_map(|line| {
        let (key, rest) = line.split_once(':')?;
        let (_, name) = NAMES.iter().find(|(source, _)| *source == key)?;
        let kibibytes: f64 = rest.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
        Some(metric(name, kibibytes * 1024.0))
    })
}

/// Reads `/proc/loadavg`: `0.10 0.20 0.30 1/123 4567`.
fn load(text: &str) -> impl Iterator<Item = Metric> {
    text.split_ascii_whitespace().zip(["1m", "5m", "15m"]).filter_map(|(value, period)| {
        let fields = BTreeMap::from([("period".to_owned(), period.to_owned())]);
        Some(Metric { fields, ..metric("system_load_average", value.parse().ok()?) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_bytes() {
        let text =
            "MemTotal:        2048 kB\nMemFree: 1 kB\nMemAvailable:  1024 kB\nHugePages_Total: 0\nSwapTotal: x kB\n";
        let metrics: Vec<_> = memory(text).map(|metric| (metric.name, metric.value)).collect();
        assert_eq!(
            metrics,
            [
                ("system_memory_total_bytes".to_owned(), 2_097_152.0),
                ("system_memory_available_bytes".to_owned(), 1_048_576.0)
            ]
        );
    }

    #[test]
    fn load_has_three_periods() {
        let metrics: Vec<_> = load("0.10 0.25 x 1/123 4567\n").map(|m| (m.fields["period"].clone(), m.value)).collect();
        assert_eq!(metrics, [("1m".to_owned(), 0.1), ("5m".to_owned(), 0.25)]);
    }
}
