package arch_test

import (
	"go/ast"
	"go/token"
	"maps"
	"slices"
	"strings"
	"testing"
)

// held names the test that holds each limit at one less, at it, and at one more: its folder and its function.
func held() map[string]string {
	const (
		requests  = "test/conformance/http1 TestLimitsOfRequestsAreExact"
		responses = "test/conformance/http1 TestLimitsOfResponsesAreExact"
		patterns  = "internal/match TestProgramsAndTemplatesHaveALargestSize"
		sizes     = "internal/proxy/compile TestConfigurationHasLargestSizes"
		documents = "internal/apis/document TestLimitsHoldAtTheirEdge"
		files     = "internal/apis/document TestFilesBeyondTheirLimitsAreRefused"
		rsa       = "internal/identity TestSizeLimitsOfRSAKeys"
		names     = "internal/agent/sds TestSubscribedNamesAreLimited"
		windows   = "internal/proxy/engine/http2 TestWindowsGrowForFastReadersOnly"
	)
	return map[string]string{
		"DNSQueriesMax": "internal/agent/dns TestQueriesThatWaitHaveALimit",
		"DocumentsMax":  files, "DocumentBytesMax": documents, "DocumentDepthMax": documents, "AliasNodesMax": documents,
		"ChainCombinationsMax": sizes, "PolicyDepthMax": sizes,
		"SPIFFEIDBytesMax": "internal/identity TestLengthLimitsOfAnID", "TrustDomainBytesMax": "internal/identity TestLengthLimitsOfAnID",
		"ChainCertificatesMax": "internal/identity TestPeersAreJudgedByRootsNamesDomainsAndUse", "RootCertificatesMax": "internal/identity TestNumberLimitsOfCertificates",
		"KeyFileBytesMax": "internal/identity/keyfile TestUnreadableFiles", "CSRBytesMax": "internal/control/ca TestBadRequestsAreRefused",
		"RSABitsMin": rsa, "RSABitsMax": rsa, "JoinTokenBytesMax": "internal/control/ca TestTokenSizeIsLimitedBeforeParsing",
		"CertificateAttributesMax": "internal/control/ca TestRequestsThatAskForMoreAreRefusedByName", "CertificateCallersMax": "internal/control/ca TestRememberedCallersAreBounded",
		"SecretNamesMax": names, "SecretNameBytesMax": names, "SecretStreamsMax": "internal/agent/sds TestStreamsAreLimited", "SecretRequestBytesMax": "internal/agent/sds TestRequestsAreLimitedInBytes",
		"RegexBytesMax": "internal/match TestConstructorsRefuseWhatCannotRun", "RegexProgramMax": patterns, "TemplateSegmentsMax": patterns,
		"HeadBytesMax": requests, "HeadFieldsMax": requests, "LeadingLinesMax": requests, "ConnectionFieldsMax": requests, "ChunkDigitsMax": requests,
		"ChunkExtensionBytesMax": responses, "ExtensionsBytesMax": requests, "TrailerBytesMax": responses, "MethodBytesMax": requests,
		"HelloBytesMax": "internal/proxy/engine TestHellosInPiecesAndAtTheLimit", "ProxyHeaderBytesMax": "internal/proxy/engine/listener TestMalformedProxyHeaders",
		"FirstSpeakersMax": "internal/proxy/engine TestFirstSpeakersAreRememberedUpToTheirLimit", "HandshakesMax": "internal/proxy/engine TestTheOldestHandshakeEndsWhenThereAreTooMany",
		"PassedChainsMax": "internal/proxy/engine/tls TestVerifiedChainsAreRememberedUpToTheirLimit", "SniffLineBytesMax": "internal/proxy/engine/listener TestALineWithoutAnEndIsWaitedForUpToItsLimit",
		"LabelSetsMax": "internal/proxy/engine TestLabelSetsAreKeptUpToTheirLimit",
		"PeersMax":     "internal/proxy/engine TestPeersAreInternedUpToTheirLimit", "WideBuffersMax": "internal/proxy/engine/conn TestWideBuffersAreBounded",
		"AccessLogBytesMax": "internal/proxy/engine/access TestLinesThatWaitHaveALimit",
		"UpstreamIdleMax":   "internal/proxy/engine/cluster TestIdleConnectionsHaveALimit", "UpstreamPendingMax": "internal/proxy/engine/cluster TestWaitingRequestsHaveALimit",
		"OriginalDestinationsMax": "internal/proxy/engine/cluster TestOriginalDestinationsHaveALimit", "ChosenNamesMax": "internal/proxy/engine/cluster TestAnswersForChosenNamesAreKeptUpToTheirLimit",
		"DNSAnswersMax":     "internal/proxy/engine/cluster TestAnswersOfManyAddressesAreCut",
		"HTTP2StreamWindow": windows, "HTTP2StreamWindowFirst": windows,
	}
}

// unheld are the limits without such a test, and why. The list only shrinks.
func unheld() map[string]string {
	const (
		beyond = "the machine that tests run on has not as many files, addresses or processes"
		older  = "its package tests it with one number only"
		flood  = "the floods and buffers of HTTP/2 are tested by what happens far beyond, not at the edge"
	)
	return map[string]string{
		"ListenerConnectionsMax": beyond, "NamespacesMax": beyond, "ProjectWorkloadsMax": older,
		"RelayConnectionsMax": older, "DNSConnectionsMax": older, "DNSForwardTime": "a time: tests move a clock beyond it", "DNSTableHostsMax": older,
		"DocumentNodesMax": older, "FileProblemsMax": older, "ListDepthMax": older,
		"ProjectServicesMax": older, "ProjectPortsMax": older, "ProjectVersionsMax": older, "ProjectReplicasMax": older, "ProjectVariablesMax": older,
		"SourceFilesMax": older, "SourceFoldersMax": older, "SourceBytesMax": older, "InformationalMax": older,
		"DNSMessageBytesMax": older, "DNSAnswerAddressesMax": older, "FileBytesMax": older, "SniffBytesMax": older,
		"LingerBytesMax":  "what is read at once may pass it by a buffer",
		"HTTP2StreamsMax": flood, "HTTP2ConnWindow": flood, "HTTP2BlockBytesSlack": flood, "HTTP2ContinuationsMax": flood, "HTTP2InformationalMax": flood, "HTTP2OutBytesMax": flood,
		"HTTP2ControlBytesMax": flood, "HTTP2ClosedMax": flood, "HTTP2LatePerReset": flood, "HTTP2LateMax": flood, "HTTP2TableBytesMax": flood, "HTTP2ResetBurst": flood, "HTTP2ResetRate": flood,
		"HTTP2AnswerBurst": flood, "HTTP2AnswerRate": flood, "HTTP2IdleBurst": flood, "HTTP2IdleRate": flood, "HTTP2WindowBurst": flood, "HTTP2WindowRate": flood, "HTTP2WindowsPerData": flood,
		"HTTP2ErrorBurst": flood, "HTTP2ErrorRate": flood,
	}
}

// TestEveryLimitHasATestAtItsEdge: a number nobody tests beside is a number that nobody enforces for long.
func TestEveryLimitHasATestAtItsEdge(t *testing.T) {
	all := sources(t)
	tests := map[string][]string{} // the limits that each speaks of
	for dir, files := range all {
		for _, f := range files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
					tests[dir+" "+fn.Name.Name] = limitsIn(fn)
				}
			}
		}
	}
	known, missing := held(), unheld()
	constants := map[string]bool{}
	for _, name := range constantsOf(all["internal/limit"]) {
		constants[name] = true
		test, ok := known[name]
		_, excused := missing[name]
		switch {
		case ok && excused:
			t.Errorf("limit.%s has a test, %s: take it off the list of those without", name, test)
		case !ok && !excused:
			t.Errorf("limit.%s has no test at one less, at it and at one more: write one and name it in held", name)
		case ok && !slices.Contains(tests[test], name):
			t.Errorf("limit.%s: there is no %s that speaks of it", name, test)
		}
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(known)), slices.Collect(maps.Keys(missing))) {
		if !constants[name] {
			t.Errorf("limit.%s is no limit any more", name)
		}
	}
}

// constantsOf are the exported constants of the files of a package.
func constantsOf(files []*ast.File) []string {
	var out []string
	for _, f := range files {
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				for _, n := range s.(*ast.ValueSpec).Names {
					if n.IsExported() {
						out = append(out, n.Name)
					}
				}
			}
		}
	}
	return out
}

// limitsIn are the limits that a function names.
func limitsIn(fn *ast.FuncDecl) []string {
	var out []string
	ast.Inspect(fn, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "limit" {
				out = append(out, s.Sel.Name)
			}
		}
		return true
	})
	return out
}
