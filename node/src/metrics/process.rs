//! What the process takes: memory, descriptors, threads and CPU time, under the names that every program's have.
//!
//! The library's collector counts CPU time in whole seconds, so that its rate over a few seconds jumps between 0 and 1:
//! here it comes from the clock of the process.

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::{Counter, proto::MetricFamily};
use rustix::time::{ClockId, clock_gettime};

const CPU: &str = "process_cpu_seconds_total";

/// The library's collector, CPU time apart.
pub(super) struct Process(ProcessCollector);

impl Process {
    /// Of this process.
    pub(super) fn this() -> Process {
        Process(ProcessCollector::for_self())
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        families.retain(|family| family.name() != CPU);
        // A new one each time: nothing for two scrapes at once to meet in.
        if let Ok(cpu) = Counter::new(CPU, "Total user and system CPU time spent in seconds.") {
            let spent = clock_gettime(ClockId::ProcessCPUTime);
            cpu.inc_by(spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9);
            families.extend(cpu.collect());
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_there_once_and_grows_by_less_than_a_second() {
        let process = Process::this();
        let spent = || {
            let families = process.collect();
            let cpu: Vec<f64> = families
                .iter()
                .filter(|f| f.name() == CPU)
                .map(|f| f.get_metric()[0].get_counter().get_value())
                .collect();
            assert_eq!(cpu.len(), 1);
            cpu[0]
        };
        let before = spent();
        // Work until the clock of the process has moved: it counts this test and those beside it.
        let after = (0..u32::MAX).map(|_| spent()).find(|now| *now > before).expect("time passes");
        assert!(after - before < 1.0, "{before} {after}");
    }
}
