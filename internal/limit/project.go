package limit

// The project file, tulle.yaml. One laptop runs a project, so the bounds are those of a machine and not of a cluster.
const (
	// ProjectServicesMax bounds the services of a project.
	ProjectServicesMax = 500
	// ProjectPortsMax bounds the ports of one service.
	ProjectPortsMax = 50
	// ProjectVersionsMax bounds the versions of one service.
	ProjectVersionsMax = 50
	// ProjectReplicasMax bounds the replicas of one version.
	ProjectReplicasMax = 50
	// ProjectWorkloadsMax bounds the workloads of a project, attached ones included: each has a proxy, which is a process.
	ProjectWorkloadsMax = 1_000
	// ProjectVariablesMax bounds the environment variables of one version.
	ProjectVariablesMax = 500
)
