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
		rsa       = "internal/identity TestSizeLimitsOfRSAKeys"
		names     = "internal/agent/sds TestSubscribedNamesAreLimited"
		two       = "internal/proxy/engine/http2 "
		floods    = two + "TestFloodsEndAtTheirBurstAndRate"
		windows   = two + "TestWindowsEndAtTheirLastByte"
		narrow    = two + "TestWindowsAreNarrowWhileMuchWaits"
		blocks    = two + "TestContinuationsAndBlocksHaveALimit"
		unwritten = two + "TestWhatWaitsToBeWrittenHasALimit"
		late      = two + "TestLateFramesAreExcusedByResets"
		projects  = "internal/app/project TestProjectsHaveLargestSizes"
		trees     = "internal/control/source/file TestTreesHaveLargestSizes"
	)
	return map[string]string{
		"DNSQueriesMax": "internal/agent/dns TestQueriesThatWaitHaveALimit", "DNSForwardTime": "internal/agent/dns TestForwardedQueriesHaveALastMoment",
		"DocumentsMax": "internal/apis/document TestDocumentsOfAFileAreLimited", "DocumentBytesMax": documents, "DocumentDepthMax": documents, "AliasNodesMax": documents,
		"ChainCombinationsMax": sizes, "PolicyDepthMax": sizes,
		"SPIFFEIDBytesMax": "internal/identity TestLengthLimitsOfAnID", "TrustDomainBytesMax": "internal/identity TestLengthLimitsOfAnID",
		"ChainCertificatesMax": "internal/identity TestPeersAreJudgedByRootsNamesDomainsAndUse", "RootCertificatesMax": "internal/identity TestNumberLimitsOfCertificates",
		"KeyFileBytesMax": "internal/identity/keyfile TestUnreadableFiles", "CSRBytesMax": "internal/control/ca TestBadRequestsAreRefused",
		"RSABitsMin": rsa, "RSABitsMax": rsa, "JoinTokenBytesMax": "internal/control/ca TestTokenSizeIsLimitedBeforeParsing",
		"CertificateAttributesMax": "internal/control/ca TestRequestsThatAskForMoreAreRefusedByName", "CertificateCallersMax": "internal/control/ca TestRememberedCallersAreBounded",
		"SecretNamesMax": names, "SecretNameBytesMax": names, "SecretStreamsMax": "internal/agent/sds TestStreamsAreLimited", "SecretRequestBytesMax": "internal/agent/sds TestRequestsAreLimitedInBytes",
		"RegexBytesMax": "internal/match TestExpressionsHaveALargestLength", "RegexProgramMax": patterns, "TemplateSegmentsMax": patterns,
		"HeadBytesMax": requests, "HeadFieldsMax": requests, "LeadingLinesMax": requests, "ConnectionFieldsMax": requests, "ChunkDigitsMax": requests,
		"ChunkExtensionBytesMax": responses, "ExtensionsBytesMax": requests, "TrailerBytesMax": responses, "MethodBytesMax": requests,
		"HelloBytesMax": "internal/proxy/engine TestHellosInPiecesAndAtTheLimit", "ProxyHeaderBytesMax": "internal/proxy/engine/listener TestProxyHeadersAreReadUpToTheirLimit",
		"FirstSpeakersMax": "internal/proxy/engine/listener TestFirstSpeakersAreRememberedUpToTheirLimit", "HandshakesMax": "internal/proxy/engine/downstream TestTheOldestHandshakeEndsWhenThereAreTooMany",
		"PassedChainsMax": "internal/proxy/engine/tls TestVerifiedChainsAreRememberedUpToTheirLimit", "SniffLineBytesMax": "internal/proxy/engine/listener TestALineWithoutAnEndIsWaitedForUpToItsLimit",
		"LabelSetsMax": "internal/proxy/engine/telemetry TestLabelSetsAreKeptUpToTheirLimit",
		"PeersMax":     "internal/proxy/engine/telemetry TestPeersAreInternedUpToTheirLimit", "WideBuffersMax": "internal/proxy/engine/conn TestWideBuffersAreBounded",
		"UnsentBytesMax":    "internal/proxy/engine/conn TestTheKernelHoldsLittleForAPeerThatDoesNotRead",
		"AccessLogBytesMax": "internal/proxy/engine/access TestLinesThatWaitHaveALimit",
		"UpstreamIdleMax":   "internal/proxy/engine/cluster TestIdleConnectionsHaveALimit", "UpstreamPendingMax": "internal/proxy/engine/cluster TestWaitingRequestsHaveALimit",
		"OriginalDestinationsMax": "internal/proxy/engine/cluster TestOriginalDestinationsHaveALimit", "ChosenNamesMax": "internal/proxy/engine/cluster TestAnswersForChosenNamesAreKeptUpToTheirLimit",
		"DNSAnswersMax":     "internal/proxy/engine/cluster TestAnswersOfManyAddressesAreCut",
		"HTTP2StreamWindow": windows, "HTTP2StreamWindowFirst": windows, "HTTP2ConnWindow": windows, "HTTP2WaitingBytes": narrow, "HTTP2StreamWindowNarrow": narrow, "HTTP2StreamsMax": two + "TestStreamsBeyondTheMostAreRefused",
		"RequestsPerTurn":      two + "TestRequestsOfAReadBeginSoManyATurn",
		"HTTP2BlockBytesSlack": blocks, "HTTP2ContinuationsMax": blocks,
		"HTTP2OutBytesMax": unwritten, "HTTP2ControlBytesMax": unwritten, "HTTP2ClosedMax": two + "TestClosedStreamsAreRememberedUpToTheirLimit",
		"HTTP2LatePerReset": late, "HTTP2LateMax": late, "HTTP2TableBytesMax": two + "TestTablesForSendingHaveALargestSize",
		"HTTP2ResetBurst": floods, "HTTP2ResetRate": floods, "HTTP2AnswerBurst": floods, "HTTP2AnswerRate": floods, "HTTP2IdleBurst": floods, "HTTP2IdleRate": floods,
		"HTTP2WindowBurst": floods, "HTTP2WindowRate": floods, "HTTP2ErrorBurst": floods, "HTTP2ErrorRate": floods,
		"HTTP2WindowsPerData":    two + "TestCreditIsAllowedForWhatWasSent",
		"ListenerConnectionsMax": "internal/proxy/engine TestListenersTakeConnectionsUpToTheirLimit",
		"InformationalMax":       "internal/proxy/engine TestInformationalResponsesAreTakenUpToTheirLimit",
		"GRPCWebHeldBytesMax":    "internal/proxy/engine/grpc TestWhatIsHeldHasALimit",
		"SniffBytesMax":          "internal/proxy/engine TestFirstBytesAreReadUpToTheirLimit", "LingerBytesMax": "internal/proxy/engine/driver1 TestLateBytesAreReadUpToTheirLimit",
		"ProjectServicesMax": projects, "ProjectPortsMax": projects, "ProjectVersionsMax": projects, "ProjectReplicasMax": projects,
		"ProjectWorkloadsMax": projects, "ProjectVariablesMax": projects,
		"SourceFilesMax": trees, "SourceFoldersMax": trees, "SourceBytesMax": trees,
		"DocumentNodesMax": "internal/apis/document TestValuesOfADocumentAreLimited", "FileBytesMax": "internal/apis/document TestBytesOfAFileAreLimited",
		"FileProblemsMax": "internal/apis TestProblemsOfAFileAreLimitedAndTheRestCounted", "ListDepthMax": "internal/apis TestListsInListsAreLimited",
		"DNSConnectionsMax": "internal/agent/dns TestConnectionsForNamesAreLimited", "DNSMessageBytesMax": "internal/agent/dns TestUDPAnswersAreLimitedInBytes",
		"DNSTableHostsMax": "internal/agent/dns TestNamesOfATableAreLimited", "DNSAnswerAddressesMax": "internal/agent/dns TestAddressesOfAnAnswerAreLimited",
		"NamespacesMax": "internal/agent/capture TestNamespacesOfARunAreLimited", "RelayConnectionsMax": "internal/agent/capture TestRelayCarriesConnectionsUpToItsLimit",
	}
}

// counted are the limits whose tests add one at a time, so that they come by one less and by the limit before they try one more.
func counted() []string {
	return []string{
		"RelayConnectionsMax", "DNSQueriesMax", "CertificateCallersMax", "SecretStreamsMax", "FirstSpeakersMax", "HandshakesMax", "PassedChainsMax",
		"LabelSetsMax", "PeersMax", "WideBuffersMax", "UpstreamIdleMax", "UpstreamPendingMax",
	}
}

// TestEveryLimitHasATestAtItsEdge: a number nobody tests beside is a number that nobody enforces for long.
func TestEveryLimitHasATestAtItsEdge(t *testing.T) {
	all := sources(t)
	tests := map[string][]string{} // the limits that each speaks of
	beside := map[string]bool{}    // those that try one less and one more
	for dir, files := range all {
		for _, f := range files {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
					tests[dir+" "+fn.Name.Name], beside[dir+" "+fn.Name.Name] = limitsIn(fn), triesBeside(fn)
				}
			}
		}
	}
	known := held()
	constants := map[string]bool{}
	for _, name := range constantsOf(all["internal/limit"]) {
		constants[name] = true
		test, ok := known[name]
		switch {
		case !ok:
			t.Errorf("limit.%s has no test at one less, at it and at one more: write one and name it in held", name)
		case !slices.Contains(tests[test], name):
			t.Errorf("limit.%s: there is no %s that speaks of it", name, test)
		case !beside[test] && !slices.Contains(counted(), name):
			t.Errorf("limit.%s: %s does not try both one less and one more", name, test)
		}
	}
	for _, name := range slices.Concat(slices.Collect(maps.Keys(known)), counted()) {
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

// triesBeside tells whether a function writes both "- 1" and "+ 1": what it takes to stand beside a limit.
func triesBeside(fn *ast.FuncDecl) bool {
	less, more := false, false
	ast.Inspect(fn, func(n ast.Node) bool {
		if b, ok := n.(*ast.BinaryExpr); ok {
			if one, ok := b.Y.(*ast.BasicLit); ok && one.Value == "1" {
				less, more = less || b.Op == token.SUB, more || b.Op == token.ADD
			}
		}
		return true
	})
	return less && more
}
