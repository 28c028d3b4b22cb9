package compile

import "google.golang.org/protobuf/reflect/protoreflect"

func clusterSurface() map[protoreflect.FullName]fields {
	const cluster, upstreams = "envoy.config.cluster.v3.", "envoy.extensions.upstreams.http.v3."
	const hashing = "consistent hashing is not built yet"
	return map[protoreflect.FullName]fields{
		cluster + "Cluster": all(`name type eds_cluster_config connect_timeout lb_policy load_assignment circuit_breakers typed_extension_protocol_options
			http2_protocol_options dns_refresh_rate dns_failure_refresh_rate dns_jitter respect_dns_ttl dns_lookup_family transport_socket transport_socket_matches metadata
			upstream_bind_config common_lb_config least_request_lb_config original_dst_lb_config filters upstream_connection_options max_requests_per_connection cluster_type`).
			inert(statsReason, "alt_stat_name track_cluster_stats track_timeout_budgets").
			inert(dnsReason, "typed_dns_resolver_config").
			inert("unused endpoints of the original destination go with their idle timeout", "cleanup_interval").
			inert(fetchReason, "wait_for_warm_on_init").
			inert("buffers belong to a request in progress and are smaller than any limit in use", "per_connection_buffer_limit_bytes").
			inert("endpoint removals never wait", "ignore_health_on_host_removal").
			refuse("outlier detection is not built yet", "outlier_detection").
			refuse("active health checks are not built yet", "health_checks").
			refuse(hashing, "ring_hash_lb_config maglev_lb_config"),
		cluster + "Cluster.CustomClusterType":                       all("name typed_config"),
		cluster + "Cluster.EdsClusterConfig":                        all("eds_config service_name"),
		cluster + "Cluster.TransportSocketMatch":                    all("name match transport_socket"),
		cluster + "Cluster.LeastRequestLbConfig":                    all("choice_count").refuse("slow start is not built yet", "slow_start_config"),
		cluster + "Cluster.OriginalDstLbConfig":                     all("upstream_port_override"),
		cluster + "Cluster.CommonLbConfig":                          all("healthy_panic_threshold locality_weighted_lb_config").inert("endpoint updates go live at once", "update_merge_window"),
		cluster + "Cluster.CommonLbConfig.LocalityWeightedLbConfig": all(""),
		cluster + "CircuitBreakers":                                 all("thresholds"),
		cluster + "CircuitBreakers.Thresholds": all("priority max_connections max_pending_requests max_requests max_retries").
			inert(statsReason, "track_remaining"),
		cluster + "Cluster.RefreshRate":                           all("base_interval max_interval"),
		cluster + "Filter":                                        all("name typed_config"),
		cluster + "UpstreamConnectionOptions":                     all("tcp_keepalive"),
		"envoy.config.core.v3.TcpKeepalive":                       all("keepalive_probes keepalive_time keepalive_interval"),
		"envoy.config.core.v3.BindConfig":                         all("source_address"),
		"envoy.type.v3.Percent":                                   all("value"),
		upstreams + "HttpProtocolOptions":                         all("explicit_http_config use_downstream_protocol_config auto_config common_http_protocol_options upstream_http_protocol_options"),
		upstreams + "HttpProtocolOptions.ExplicitHttpConfig":      all("http_protocol_options http2_protocol_options"),
		upstreams + "HttpProtocolOptions.UseDownstreamHttpConfig": all("http_protocol_options http2_protocol_options"),
		upstreams + "HttpProtocolOptions.AutoHttpConfig":          all("http_protocol_options http2_protocol_options"),
		"envoy.config.core.v3.UpstreamHttpProtocolOptions":        all("auto_sni"),
		"envoy.config.core.v3.HttpProtocolOptions":                all("idle_timeout max_connection_duration max_requests_per_connection max_headers_count max_stream_duration"),
		"envoy.config.core.v3.Http1ProtocolOptions":               all("accept_http_10").inert("absolute targets are always understood (RFC 9112 §3.2.2)", "allow_absolute_url"),
		"envoy.config.core.v3.KeepaliveSettings":                  all("interval timeout").inert("spreads PINGs, which ours need not: each connection's begin with it", "interval_jitter"),
		"envoy.config.core.v3.Http2ProtocolOptions": all("max_concurrent_streams connection_keepalive allow_connect").
			inert(windowReason, "initial_stream_window_size initial_connection_window_size"),
	}
}

func endpointSurface() map[protoreflect.FullName]fields {
	const endpoint = "envoy.config.endpoint.v3."
	return map[protoreflect.FullName]fields{
		endpoint + "ClusterLoadAssignment":        all("cluster_name endpoints policy"),
		endpoint + "ClusterLoadAssignment.Policy": all("overprovisioning_factor"),
		endpoint + "LocalityLbEndpoints":          all("locality lb_endpoints load_balancing_weight priority").inert("describes the locality to people", "metadata").inert("no balancer reads it", "proximity"),
		endpoint + "LbEndpoint":                   all("endpoint health_status metadata load_balancing_weight"),
		endpoint + "Endpoint":                     all("address hostname additional_addresses"),
		endpoint + "Endpoint.AdditionalAddress":   all("address"),
	}
}

func tlsSurface() map[protoreflect.FullName]fields {
	const tls = "envoy.extensions.transport_sockets.tls.v3."
	const tlvReason = "the PROXY header carries addresses only"
	return map[protoreflect.FullName]fields{
		"envoy.config.core.v3.TransportSocket":                       all("name typed_config"),
		"envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer": all(""),
		"envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport": all("config transport_socket").
			refuse("Envoy does not implement it either", "allow_unspecified_address").
			refuse(tlvReason, "tlv_as_pool_key"),
		"envoy.config.core.v3.ProxyProtocolConfig": all("version").refuse(tlvReason, "pass_through_tlvs added_tlvs"),
		tls + "DownstreamTlsContext":               all("common_tls_context require_client_certificate"),
		tls + "UpstreamTlsContext":                 all("common_tls_context sni").inert("sessions are resumed as crypto/tls does", "max_session_keys"),
		tls + "CommonTlsContext": all(`tls_params tls_certificates tls_certificate_sds_secret_configs validation_context
			validation_context_sds_secret_config combined_validation_context alpn_protocols`),
		tls + "CommonTlsContext.CombinedCertificateValidationContext": all("default_validation_context validation_context_sds_secret_config"),
		tls + "TlsParameters":                all("tls_minimum_protocol_version tls_maximum_protocol_version cipher_suites ecdh_curves"),
		tls + "TlsCertificate":               all("certificate_chain private_key").inert("the store watches the files themselves", "watched_directory"),
		tls + "CertificateValidationContext": all("trusted_ca match_subject_alt_names match_typed_subject_alt_names crl").inert("the store watches the files themselves", "watched_directory"),
		tls + "SubjectAltNameMatcher":        all("san_type matcher"),
		tls + "SdsSecretConfig":              all("name sds_config"),
		tls + "Secret":                       all("name tls_certificate validation_context"),
	}
}

func coreSurface() map[protoreflect.FullName]fields {
	const core = "envoy.config.core.v3."
	return map[protoreflect.FullName]fields{
		core + "Address":                all("socket_address pipe"),
		core + "SocketAddress":          all("address port_value protocol"),
		core + "Pipe":                   all("path"),
		core + "CidrRange":              all("address_prefix prefix_len"),
		core + "Metadata":               all("filter_metadata").inert("no reader in the engine", "typed_filter_metadata"),
		core + "TypedExtensionConfig":   all("name typed_config"),
		core + "DataSource":             all("filename inline_bytes inline_string").inert("the store watches the files themselves", "watched_directory"),
		core + "Locality":               all("region zone sub_zone"),
		core + "RuntimeUInt32":          all("default_value").inert("tulle reads no runtime keys", "runtime_key"),
		core + "RuntimeFeatureFlag":     all("default_value").inert("tulle reads no runtime keys", "runtime_key"),
		core + "ConfigSource":           all("ads api_config_source resource_api_version").inert(fetchReason, "initial_fetch_timeout"),
		core + "AggregatedConfigSource": all(""),
		core + "ApiConfigSource": all("api_type transport_api_version grpc_services").
			inert("the client sends its node once on each stream", "set_node_on_first_message_only"),
		core + "GrpcService":           all("envoy_grpc").inert("the client's own metadata and deadlines hold", "timeout initial_metadata"),
		core + "GrpcService.EnvoyGrpc": all("cluster_name"),
	}
}
