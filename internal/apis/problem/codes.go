package problem

// The codes. TUL10xx: the file; TUL11xx: fields and values; TUL12xx: what tulle does not enforce. IST codes are Istio's own,
// used where the check is Istio's.
const (
	CodeLimit        = "TUL1001"
	CodeSyntax       = "TUL1002"
	CodeDuplicateKey = "TUL1003"
	CodeNotObject    = "TUL1004"
	CodeUnknownKind  = "TUL1005"
	CodeMetadata     = "TUL1006"
	CodeNotRead      = "TUL1007"
	CodeTwice        = "TUL1008"
	CodeMore         = "TUL1009"

	CodeUnknownField = "TUL1101"
	CodeType         = "TUL1102"
	CodeEnum         = "TUL1103"
	CodeOneof        = "TUL1104"

	CodeKindUnsupported  = "TUL1201"
	CodeFieldUnsupported = "TUL1202"
	CodeValueUnsupported = "TUL1203"
	CodeMeshUnsupported  = "TUL1204"
	CodeNotHonoured      = "TUL1205"

	// CodeProject is of tulle.yaml.
	CodeProject = "TUL1301"

	// TUL14xx are found by comparing objects: the registry, the model, and the files that they come from.
	CodeHostTaken    = "TUL1401"
	CodeDefinedTwice = "TUL1402"
	CodeDelegate     = "TUL1411"
	CodeSubsetTwice  = "TUL1412"
	CodePeerHidden   = "TUL1413"
	CodeNotConverted = "TUL1414"
	CodeUnreadable   = "TUL1421"
	CodeLink         = "TUL1422"

	CodeNotFound         = "IST0101"
	CodeHostConflict     = "IST0109"
	CodeSidecarSelectors = "IST0110"
	CodeSidecarDefaults  = "IST0111"
	CodePortRequired     = "IST0112"
	CodeHostNotInGateway = "IST0132"
	CodeUnknownHost      = "IST0174"

	CodeInvalid    = "IST0106"
	CodeSuspicious = "IST0133"

	CodeUnreachable = "IST0130"
	CodeIneffective = "IST0131"
)

// Explanation says what a code means, in a sentence or two, for `tulle explain CODE`. The second result is false for unknown codes.
func Explanation(code string) (string, bool) {
	for _, e := range explanations() {
		if e.Code == code {
			return e.Text, true
		}
	}
	return "", false
}

// explanations is the table of all codes of configuration problems.
func explanations() []struct{ Code, Text string } {
	return []struct{ Code, Text string }{
		{CodeInvalid, "Istio's validation refuses the object. The message names the field and the rule."},
		{CodeSuspicious, "Istio's validation warns about the object: it is accepted, but probably does not do what it says."},
		{CodeUnreachable, "A rule of a VirtualService is never used: rules before it take all its requests."},
		{CodeIneffective, "A match of a VirtualService takes no request: an earlier one takes them all."},
		{CodeLimit, "The file, or a document in it, is larger or deeper than what tulle reads. The limits are in internal/limit."},
		{CodeSyntax, "The text is not YAML (or JSON). Only this document is skipped; the others of the file are read."},
		{CodeDuplicateKey, "A key stands twice in one mapping. YAML readers disagree on which one counts, so neither does."},
		{CodeNotObject, "The document is not an object: it needs apiVersion, kind and metadata.name."},
		{CodeUnknownKind, "The API group is known, but it has no such kind or version."},
		{CodeMetadata, "The object's metadata (name, namespace, labels, annotations) breaks a rule of Kubernetes or Istio."},
		{CodeNotRead, "The object is of a kind that a mesh has no use for. It is left alone."},
		{CodeTwice, "Two documents of one file define the same object. The first one counts."},
		{CodeMore, "The file has more problems than are shown."},
		{CodeUnknownField, "The field does not exist in the API of the kind. It would be ignored silently, so the object is refused."},
		{CodeType, "The value has the wrong type or form for its field."},
		{CodeEnum, "The value is not one of the words that its field takes."},
		{CodeOneof, "Two fields are set of which only one may be."},
		{CodeProject, "The project file tulle.yaml says something that cannot be run. The message names the field and the rule."},
		{CodeKindUnsupported, "Istio accepts objects of this kind; tulle does not enforce them yet, so the object is refused instead of being ignored."},
		{CodeFieldUnsupported, "Istio accepts this field; tulle does not enforce it yet, so the object is refused instead of being half applied."},
		{CodeValueUnsupported, "Istio accepts this value; tulle does not enforce it yet, so the object is refused instead of being half applied."},
		{CodeNotHonoured, "A Kubernetes object, annotation or label says something that tulle does not do. Others may do it, so the object is used without it."},
		{CodeHostTaken, "Several objects of a namespace define one host. A Kubernetes Service wins over a ServiceEntry, then the oldest wins."},
		{CodeDefinedTwice, "Two files, or two sources, define the same object. One of them is used, and the message says which."},
		{CodeDelegate, "A VirtualService that others delegate to can't be merged: it is not exported to them, or its conditions contradict theirs."},
		{CodeSubsetTwice, "DestinationRules for one host are merged, and two of them define a subset of the same name. The older definition holds."},
		{CodePeerHidden, "A PeerAuthentication never applies: another one holds for the same scope, or it has a selector in the root namespace."},
		{CodeNotConverted, "An accepted object can't be put to use. This is a defect of tulle; the object counts as absent."},
		{CodeUnreadable, "A file or a folder of the configuration can't be read. What was read of it before stays in force."},
		{CodeLink, "A symbolic link leads out of the configuration folder, or in a circle. It is not followed."},
		{CodeNotFound, "An object refers to a host, port, subset, gateway or delegate that nothing defines."},
		{CodeHostConflict, "Several VirtualServices claim one host for sidecars. Sidecars use the oldest of them."},
		{CodeSidecarSelectors, "Several Sidecars select one workload. The oldest of them applies."},
		{CodeSidecarDefaults, "A namespace has several Sidecars without a selector. The oldest of them applies."},
		{CodePortRequired, "A destination names no port, and its service has several."},
		{CodeHostNotInGateway, "A VirtualService is bound to a Gateway that serves none of its hosts."},
		{CodeUnknownHost, "A DestinationRule is for a host that no service has."},
		{CodeMeshUnsupported, "Istio accepts this field of the mesh configuration; tulle does not enforce it yet. The field is ignored, the others hold."},
	}
}
