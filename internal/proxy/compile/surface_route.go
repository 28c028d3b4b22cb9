package compile

import "google.golang.org/protobuf/reflect/protoreflect"

const route = "envoy.config.route.v3."

func routeSurface() map[protoreflect.FullName]fields {
	const headers = " request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove"
	return map[protoreflect.FullName]fields{
		route + "RouteConfiguration": all("name virtual_hosts vhds ignore_port_in_host_matching most_specific_header_mutations_wins max_direct_response_body_size_bytes"+headers).
			inert("whether a cluster exists is decided for each request: 503, and the resource stays", "validate_clusters").
			inert("describes the routes to people", "metadata"),
		route + "Vhds": all("config_source"),
		route + "VirtualHost": all("name domains routes require_tls typed_per_filter_config include_request_attempt_count metadata"+headers).
			inert(statsReason, "virtual_clusters"),
		route + "Route": all("name match route redirect direct_response non_forwarding_action metadata typed_per_filter_config"+headers).
			inert("names spans; "+noSpanReason, "decorator tracing").
			inert(statsReason, "stat_prefix"),
		route + "RouteMatch": all(`prefix path safe_regex path_separated_prefix connect_matcher path_match_policy case_sensitive runtime_fraction
			headers query_parameters grpc`).refuse(jwtReason, "dynamic_metadata"),
		route + "RouteMatch.ConnectMatcher":             all(""),
		route + "RouteMatch.GrpcRouteMatchOptions":      all(""),
		route + "NonForwardingAction":                   all(""),
		route + "HeaderMatcher":                         all(`name string_match present_match range_match invert_match treat_missing_header_as_empty exact_match prefix_match suffix_match contains_match safe_regex_match`),
		route + "QueryParameterMatcher":                 all("name string_match present_match"),
		route + "DirectResponseAction":                  all("status body"),
		route + "RedirectAction":                        all("https_redirect scheme_redirect host_redirect port_redirect path_redirect prefix_rewrite regex_rewrite response_code strip_query"),
		route + "WeightedCluster":                       all("clusters total_weight"),
		route + "WeightedCluster.ClusterWeight":         all("name weight host_rewrite_literal typed_per_filter_config" + headers),
		route + "FilterConfig":                          all("config disabled"),
		"envoy.config.core.v3.HeaderValueOption":        all("header append append_action keep_empty_value"),
		"envoy.config.core.v3.HeaderValue":              all("key value"),
		"envoy.config.core.v3.RuntimeFractionalPercent": all("default_value").inert("tulle reads no runtime keys", "runtime_key"),
		"envoy.type.v3.FractionalPercent":               all("numerator denominator"),
	}
}

func routeActionSurface() map[protoreflect.FullName]fields {
	return map[protoreflect.FullName]fields{
		route + "RouteAction": all(`cluster cluster_header weighted_clusters cluster_not_found_response_code prefix_rewrite regex_rewrite
			host_rewrite_literal auto_host_rewrite append_x_forwarded_host timeout idle_timeout retry_policy upgrade_configs max_stream_duration`).
			inert(hashReason, "hash_policy").
			inert("grpc-timeout is the client's own deadline, which it keeps itself; the route's timeout holds", "max_grpc_timeout").
			refuse("mirroring is not built yet", "request_mirror_policies").
			refuse("rate limits are not built yet", "rate_limits include_vh_rate_limits").
			refuse("CORS is not built yet", "cors"),
		route + "RouteAction.MaxStreamDuration": all("max_stream_duration").
			inert("grpc-timeout is the client's own deadline, which it keeps itself; the route's timeout holds", "grpc_timeout_header_max grpc_timeout_header_offset"),
		route + "RouteAction.UpgradeConfig": all("upgrade_type enabled connect_config"),
		route + "RouteAction.UpgradeConfig.ConnectConfig": all("").
			refuse("a tunnel by POST, or one that begins with a PROXY header, is not built yet", "allow_post proxy_protocol_config"),
		route + "RetryPolicy": all("retry_on num_retries per_try_timeout retriable_status_codes retry_back_off retry_host_predicate").
			inert("the engine knows which endpoints were tried, and does not draw until it finds another", "host_selection_retry_max_attempts").
			refuse("attempts are bounded by per_try_timeout alone", "per_try_idle_timeout").
			refuse(retryReason, "retry_priority"),
		route + "RetryPolicy.RetryBackOff":              all("base_interval max_interval"),
		route + "RetryPolicy.RetryHostPredicate":        all("name typed_config"),
		"envoy.type.matcher.v3.RegexMatchAndSubstitute": all("pattern substitution"),
	}
}

func matcherSurface() map[protoreflect.FullName]fields {
	const matcher = "envoy.type.matcher.v3."
	return map[protoreflect.FullName]fields{
		matcher + "StringMatcher":          all("exact prefix suffix contains safe_regex ignore_case"),
		matcher + "RegexMatcher":           all("regex").inert("there is one engine, Go's RE2", "google_re2"),
		matcher + "RegexMatcher.GoogleRE2": all("").inert("our own limit on the size of programs holds", "max_program_size"),
		matcher + "PathMatcher":            all("path"),
		"envoy.type.v3.Int64Range":         all("start end"),
		"envoy.type.v3.Int32Range":         all("start end"),
		"envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig": all("path_template"),
	}
}

func rbacSurface() map[protoreflect.FullName]fields {
	const rbac = "envoy.config.rbac.v3."
	const matcherReason = "policies as a matcher tree are not built yet"
	return map[protoreflect.FullName]fields{
		"envoy.extensions.filters.http.rbac.v3.RBAC": all("rules shadow_rules shadow_rules_stat_prefix").
			inert(statsReason, "rules_stat_prefix track_per_rule_stats").refuse(matcherReason, "matcher shadow_matcher"),
		"envoy.extensions.filters.http.rbac.v3.RBACPerRoute": all("rbac"),
		"envoy.extensions.filters.network.rbac.v3.RBAC": all("rules shadow_rules shadow_rules_stat_prefix").
			inert(statsReason, "stat_prefix").refuse(matcherReason, "matcher shadow_matcher").
			refuse("rules are asked once, when a connection begins, and at every change of the configuration", "enforcement_type"),
		rbac + "RBAC":   all("action policies").refuse("audit logging is not built yet", "audit_logging_options"),
		rbac + "Policy": all("permissions principals").refuse("CEL is not built yet", "condition checked_condition"),
		rbac + "Permission": all(`and_rules or_rules any header url_path destination_ip destination_port destination_port_range not_rule
			requested_server_name uri_template`).refuse(jwtReason, "metadata sourced_metadata").refuse(matcherReason, "matcher"),
		rbac + "Permission.Set": all("rules"),
		rbac + "Principal": all("and_ids or_ids any authenticated source_ip direct_remote_ip remote_ip header url_path not_id").
			refuse(jwtReason, "metadata sourced_metadata"),
		rbac + "Principal.Set":           all("ids"),
		rbac + "Principal.Authenticated": all("principal_name"),
	}
}
