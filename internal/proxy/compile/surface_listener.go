package compile

import "google.golang.org/protobuf/reflect/protoreflect"

func listenerSurface() map[protoreflect.FullName]fields {
	return map[protoreflect.FullName]fields{
		"envoy.config.listener.v3.Listener": all(`name address additional_addresses filter_chains default_filter_chain bind_to_port
			listener_filters listener_filters_timeout continue_on_listener_filters_timeout traffic_direction use_original_dst access_log`).
			inert(statsReason, "stat_prefix").
			inert("connections are accepted one by one", "max_connections_to_accept_per_socket_event").
			inert("one loop accepts for all threads, so connections are spread by the scheduler", "connection_balance_config enable_reuse_port reuse_port").
			inert("the kernel's own backlog is used", "tcp_backlog_size").
			inert("there is no limit over all listeners", "ignore_global_conn_limit").
			inert("a drain is asked for by whoever stops the proxy", "drain_type").
			inert("buffers belong to a request in progress and are smaller than any limit in use", "per_connection_buffer_limit_bytes").
			inert("describes the listener to people", "metadata").
			refuse("for proxyless gRPC clients, which do not run here", "api_listener"),
		"envoy.config.listener.v3.AdditionalAddress": all("address"),
		"envoy.config.listener.v3.FilterChain": all("filter_chain_match filters transport_socket transport_socket_connect_timeout name").
			inert(telemetry, "metadata"),
		"envoy.config.listener.v3.FilterChainMatch": all(`destination_port prefix_ranges server_names transport_protocol application_protocols
			direct_source_prefix_ranges source_type source_prefix_ranges source_ports`),
		"envoy.config.listener.v3.Filter": all("name typed_config").
			refuse("extensions by discovery (ECDS) are not built yet", "config_discovery"),
		"envoy.config.listener.v3.ListenerFilter":                             all("name typed_config filter_disabled"),
		"envoy.config.listener.v3.ListenerFilterChainMatchPredicate":          all("or_match not_match any_match destination_port_range"),
		"envoy.config.listener.v3.ListenerFilterChainMatchPredicate.MatchSet": all("rules"),
		"envoy.extensions.filters.listener.http_inspector.v3.HttpInspector":   all(""),
		"envoy.extensions.filters.listener.original_dst.v3.OriginalDst":       all(""),
		"envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol": all("allow_requests_without_proxy_protocol disallowed_versions").
			inert(statsReason, "stat_prefix").
			refuse("fields beside the addresses are skipped", "rules pass_through_tlvs tlv_location"),
		"envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector": all("").inert("buffers grow as needed up to the limit", "initial_read_buffer_size"),
		"envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy": all("").
			inert(statsReason, "stat_prefix commands").
			refuse("the filter observes only; it injects no delay and writes no log", "delay access_log"),
		"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": all(`cluster weighted_clusters idle_timeout max_downstream_connection_duration
			max_connect_attempts access_log`).
			inert(statsReason, "stat_prefix").inert(hashReason, "hash_policy").
			inert("accepted with every connection", "upstream_connect_mode"),
		"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster":               all("clusters"),
		"envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight": all("name weight"),
	}
}

func connectionManagerSurface() map[protoreflect.FullName]fields {
	const hcm = "envoy.extensions.filters.network.http_connection_manager.v3."
	return map[protoreflect.FullName]fields{
		hcm + "HttpConnectionManager": all(`codec_type rds route_config http_filters common_http_protocol_options http_protocol_options http2_protocol_options
			server_name server_header_transformation max_request_headers_kb stream_idle_timeout request_timeout request_headers_timeout drain_timeout
			access_log use_remote_address xff_num_trusted_hops skip_xff_append via generate_request_id preserve_external_request_id
			always_set_request_id_in_response forward_client_cert_details set_current_client_cert_details proxy_100_continue upgrade_configs
			normalize_path merge_slashes path_with_escaped_slashes_action strip_matching_host_port strip_any_host_port request_id_extension tracing`).
			inert(statsReason, "stat_prefix").
			inert("closing waits for the peer as TCP's own half-close does", "delayed_close_timeout"),
		hcm + "HttpConnectionManager.Tracing": all("").
			inert(noSpanReason, "client_sampling random_sampling overall_sampling verbose max_path_tag_length custom_tags spawn_upstream_span").
			refuse("tracing is not built yet", "provider"),
		hcm + "HttpConnectionManager.SetCurrentClientCertDetails": all("subject cert dns uri"),
		hcm + "HttpConnectionManager.UpgradeConfig":               all("upgrade_type enabled"),
		hcm + "Rds":                all("config_source route_config_name"),
		hcm + "HttpFilter":         all("name typed_config disabled").refuse("extensions by discovery (ECDS) are not built yet", "config_discovery"),
		hcm + "RequestIDExtension": all("typed_config"),
		"envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig": all("").inert(noSpanReason, "use_request_id_for_trace_sampling pack_trace_reason"),
		"envoy.extensions.filters.http.router.v3.Router":          all("").inert(statsReason, "dynamic_stats").inert(noSpanReason, "start_child_span"),
		"envoy.extensions.filters.http.cors.v3.Cors":              all(""),
		"envoy.extensions.filters.http.grpc_web.v3.GrpcWeb":       all(""),
		"envoy.extensions.filters.http.fault.v3.HTTPFault":        all("").refuse("fault injection is not built yet", "delay abort response_rate_limit"),
	}
}

func accessSurface() map[protoreflect.FullName]fields {
	const access = "envoy.config.accesslog.v3."
	return map[protoreflect.FullName]fields{
		access + "AccessLog":                                        all("name typed_config filter"),
		access + "AccessLogFilter":                                  all("response_flag_filter status_code_filter not_health_check_filter"),
		access + "ResponseFlagFilter":                               all("flags"),
		access + "StatusCodeFilter":                                 all("comparison"),
		access + "ComparisonFilter":                                 all("op value"),
		access + "NotHealthCheckFilter":                             all(""),
		"envoy.extensions.access_loggers.file.v3.FileAccessLog":     all("path log_format format"),
		"envoy.extensions.access_loggers.stream.v3.StdoutAccessLog": all("log_format"),
		"envoy.extensions.access_loggers.stream.v3.StderrAccessLog": all("log_format"),
		"envoy.config.core.v3.SubstitutionFormatString": all("text_format text_format_source json_format").
			inert("fields come in the order of their names", "json_format_options"),
	}
}

func bootstrapSurface() map[protoreflect.FullName]fields {
	const bootstrap = "envoy.config.bootstrap.v3."
	return map[protoreflect.FullName]fields{
		bootstrap + "Bootstrap": all("node admin static_resources dynamic_resources").
			inert(statsReason, "stats_config stats_sinks stats_flush_interval").
			inert("settings of the Envoy process; tulle reads no runtime keys", "layered_runtime").
			inert(dnsReason, "typed_dns_resolver_config"),
		bootstrap + "Bootstrap.StaticResources":  all("listeners clusters secrets"),
		bootstrap + "Bootstrap.DynamicResources": all("lds_config cds_config ads_config"),
		bootstrap + "Admin":                      all("address").inert("the admin port writes no access log", "access_log access_log_path profile_path"),
		"envoy.config.core.v3.Node": all("id cluster metadata locality").
			inert("describes the client to the server; tulle sends its own", "user_agent_name user_agent_version user_agent_build_version extensions client_features listening_addresses dynamic_parameters"),
	}
}
