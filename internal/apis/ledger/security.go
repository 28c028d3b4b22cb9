package ledger

func securityKinds() []*Kind {
	return []*Kind{
		{Name: "PeerAuthentication", Entries: table(`
			selector
			selector.matchLabels{}
			mtls
			mtls.mode
			portLevelMtls{}
			portLevelMtls{}.mode
		`)},
		{Name: "RequestAuthentication", Refused: "RequestAuthentication is not enforced yet: tokens are not checked"},
		{Name: "AuthorizationPolicy", Refused: "AuthorizationPolicy is not enforced yet: its rules are not applied"},
		{Name: "Telemetry", Refused: "Telemetry is not enforced yet: the mesh's own metrics and access log are kept as they are"},
	}
}
