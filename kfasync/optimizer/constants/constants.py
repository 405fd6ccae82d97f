"""Constants under Kubeflow's import path."""

# The Experiment API of Katib.
GROUP = "kubeflow.org"
VERSION = "v1beta1"
API_VERSION = f"{GROUP}/{VERSION}"
EXPERIMENT_KIND = "Experiment"
EXPERIMENT_PLURAL = "experiments"
EXPERIMENT_SUCCEEDED = "Succeeded"
EXPERIMENT_LABEL = "katib.kubeflow.org/experiment"
TRIAL_PLURAL = "trials"
TRIAL_KIND = "Trial"
METRICS_COLLECTOR_CONTAINER = "metrics-logger-and-collector"
DOUBLE_PARAMETER = "double"
CATEGORICAL_PARAMETERS = "categorical"

# A study, and its statuses.
OPTIMIZATION_JOB_KIND = "OptimizationJob"
OPTIMIZATION_JOB_CREATED = "Created"
OPTIMIZATION_JOB_RUNNING = "Running"
OPTIMIZATION_JOB_COMPLETE = "Complete"
OPTIMIZATION_JOB_FAILED = "Failed"
