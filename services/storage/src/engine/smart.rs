//! What smartctl says of a drive.

use api::v1::DriveSmart;
use serde_json::Value;

/// One drive, as `smartctl -aj` describes it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SmartReport {
    pub(crate) bus: String,
    pub(crate) model_family: String,
    pub(crate) model_name: String,
    pub(crate) serial_number: String,
    /// `None` when the drive keeps no health data.
    pub(crate) health: Option<DriveSmart>,
}

impl SmartReport {
    /// Reads the output of smartctl, whatever its exit status was: that is a set
    /// of flags about the drive's health. `None` if it printed nothing, or
    /// nothing about the drive because that sleeps.
    pub(crate) fn parse(output: &[u8]) -> Option<Self> {
        if output.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        let report: Value = match serde_json::from_slice(output) {
            Ok(report) => report,
            Err(error) => {
                let error = format!("smartctl printed what is not JSON: {error}");
                return Some(Self { health: Some(DriveSmart { error, ..Default::default() }), ..Self::default() });
            }
        };
        // With `-n standby` smartctl stops after the power mode of a drive that sleeps.
        if report.get("smart_support").is_none() && report.get("power_mode").is_some() {
            return None;
        }
        let text = |path: &str| report.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let first = |a: &str, b: &str| Some(text(a)).filter(|text| !text.is_empty()).unwrap_or_else(|| text(b));
        Some(Self {
            bus: match text("/device/type").as_str() {
                "sat" => "sata".to_owned(),
                other => other.to_owned(),
            },
            model_family: first("/model_family", "/scsi_vendor"),
            model_name: first("/model_name", "/scsi_product"),
            serial_number: text("/serial_number"),
            health: flag(&report, "/smart_support/available").then(|| health(&report)),
        })
    }
}

fn health(report: &Value) -> DriveSmart {
    let nvme = |key: &str| number(report, &format!("/nvme_smart_health_information_log/{key}"));
    DriveSmart {
        enabled: flag(report, "/smart_support/enabled"),
        passed: flag(report, "/smart_status/passed"),
        error: String::new(),
        power_on_hours: number(report, "/power_on_time/hours"),
        data_units_read: nvme("data_units_read"),
        data_units_written: nvme("data_units_written"),
        available_spare: nvme("available_spare"),
        percentage_used: nvme("percentage_used"),
        raw_read_error_rate: ata_attribute(report, "Raw_Read_Error_Rate"),
        seek_error_rate: ata_attribute(report, "Seek_Error_Rate"),
        reallocated_sectors: ata_attribute(report, "Reallocated_Sector_Ct"),
        temperature_celsius: number(report, "/temperature/current"),
    }
}

fn flag(report: &Value, path: &str) -> bool {
    report.pointer(path).and_then(Value::as_bool).unwrap_or(false)
}

fn number(report: &Value, path: &str) -> i64 {
    report.pointer(path).and_then(Value::as_i64).unwrap_or(0)
}

fn ata_attribute(report: &Value, name: &str) -> i64 {
    let table = report.pointer("/ata_smart_attributes/table").and_then(Value::as_array);
    let row = table.into_iter().flatten().find(|row| row.get("name").and_then(Value::as_str) == Some(name));
    row.and_then(|row| row.pointer("/raw/value")).and_then(Value::as_i64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sata_drive() {
        let report = SmartReport::parse(include_bytes!("../../tests/fixtures/smartctl-sata.json")).unwrap();
        assert_eq!(report.bus, "sata");
        assert_eq!(report.model_family, "Western Digital Red");
        assert_eq!(report.model_name, "WDC WD40EFRX-68N32N0");
        let health = report.health.unwrap();
        assert!(health.enabled && health.passed);
        assert_eq!(health.power_on_hours, 31_846);
        assert_eq!(health.reallocated_sectors, 3);
        assert_eq!(health.temperature_celsius, 34);
        assert_eq!(health.data_units_read, 0);
    }

    #[test]
    fn an_nvme_drive() {
        let report = SmartReport::parse(include_bytes!("../../tests/fixtures/smartctl-nvme.json")).unwrap();
        assert_eq!((report.bus.as_str(), report.model_family.as_str()), ("nvme", ""));
        let health = report.health.unwrap();
        assert_eq!(health.available_spare, 100);
        assert_eq!(health.percentage_used, 2);
        assert_eq!(health.data_units_written, 24_187_226);
        assert_eq!(health.temperature_celsius, 41);
    }

    #[test]
    fn a_virtual_scsi_drive_has_names_but_no_health() {
        let report = SmartReport::parse(
            br#"{"smartctl":{"exit_status":4},"device":{"name":"/dev/sda","type":"scsi","protocol":"SCSI"},
                "scsi_vendor":"QEMU","scsi_product":"QEMU HARDDISK","serial_number":"incus_root",
                "smart_support":{"available":false}}"#,
        )
        .unwrap();
        assert_eq!((report.model_family.as_str(), report.model_name.as_str()), ("QEMU", "QEMU HARDDISK"));
        assert_eq!(report.health, None);
    }

    #[test]
    fn output_that_is_not_json_is_reported_as_such() {
        let health = SmartReport::parse(b"Segmentation fault").unwrap().health.unwrap();
        assert!(health.error.starts_with("smartctl printed what is not JSON"));
        assert_eq!(SmartReport::parse(b" \n"), None);
    }

    #[test]
    fn fields_of_an_unexpected_type_count_as_missing() {
        let report = SmartReport::parse(
            br#"{"smart_support":{"available":true,"enabled":"yes"},"temperature":"hot","model_name":7,
                "ata_smart_attributes":{"table":{}},"power_on_time":null}"#,
        )
        .unwrap();
        assert_eq!(report.health, Some(DriveSmart::default()));
        assert_eq!(SmartReport::parse(b"[]"), Some(SmartReport::default()));
    }

    #[test]
    fn a_sleeping_drive_tells_nothing_new() {
        let asleep = br#"{"device":{"type":"sat"},"power_mode":{"ata_value":0,"name":"STANDBY"}}"#;
        assert_eq!(SmartReport::parse(asleep), None);
    }
}
