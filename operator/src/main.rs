//! `quorate-operator`: serves KVClusters, or prints their definition.

use std::process::ExitCode;

use clap::Parser;
use quorate_operator::cli::{Cli, LogFormat, ServeArgs, Verb};
use quorate_operator::{crd_yaml, run};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Some(Verb::Crd) => crd_yaml().map(|yaml| print!("{yaml}")),
        None => serve(cli.serve),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorate-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: ServeArgs) -> Result<(), String> {
    let filter =
        EnvFilter::try_new(&args.log_level).map_err(|e| format!("{:?} is no level of logging: {e}", args.log_level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match args.log_format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    let runtime = tokio::runtime::Runtime::new().map_err(|e| e.to_string())?;
    runtime.block_on(run::run(args)).map_err(|e| e.to_string())
}
