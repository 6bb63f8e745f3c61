//! Kubernetes backend of moodify: Deployer, traffic routers, diagnostics.
