package problem

// The codes. TUL10xx: the file; TUL11xx: fields and values; TUL12xx: what tulle does not enforce; TUL14xx: what comparing
// objects finds, in the registry, the model and the files that they come from. IST codes are Istio's own, used where the
// check is Istio's.
const (
	// CodeLimit: the file, or a document in it, is larger or deeper than what tulle reads. The limits are in internal/limit.
	CodeLimit = "TUL1001"
	// CodeSyntax: the text is not YAML (or JSON). Only this document is skipped; the others of the file are read.
	CodeSyntax = "TUL1002"
	// CodeDuplicateKey: a key stands twice in one mapping. YAML readers disagree on which one counts, so neither does.
	CodeDuplicateKey = "TUL1003"
	// CodeNotObject: the document is not an object: it needs apiVersion, kind and metadata.name.
	CodeNotObject = "TUL1004"
	// CodeUnknownKind: the API group is known, but it has no such kind or version.
	CodeUnknownKind = "TUL1005"
	// CodeMetadata: the object's metadata (name, namespace, labels, annotations) breaks a rule of Kubernetes or Istio.
	CodeMetadata = "TUL1006"
	// CodeNotRead: the object is of a kind that a mesh has no use for. It is left alone.
	CodeNotRead = "TUL1007"
	// CodeTwice: two documents of one file define the same object. The first one counts.
	CodeTwice = "TUL1008"
	// CodeMore: the file has more problems than are shown.
	CodeMore = "TUL1009"

	// CodeUnknownField: the field does not exist in the API of the kind. It would be ignored silently, so the object is refused.
	CodeUnknownField = "TUL1101"
	// CodeType: the value has the wrong type or form for its field.
	CodeType = "TUL1102"
	// CodeEnum: the value is not one of the words that its field takes.
	CodeEnum = "TUL1103"
	// CodeOneof: two fields are set of which only one may be.
	CodeOneof = "TUL1104"

	// CodeKindUnsupported: Istio accepts objects of this kind; tulle does not enforce them yet, so the object is refused instead of being ignored.
	CodeKindUnsupported = "TUL1201"
	// CodeFieldUnsupported: Istio accepts this field; tulle does not enforce it yet, so the object is refused instead of being half applied.
	CodeFieldUnsupported = "TUL1202"
	// CodeValueUnsupported: Istio accepts this value; tulle does not enforce it yet, so the object is refused instead of being half applied.
	CodeValueUnsupported = "TUL1203"
	// CodeMeshUnsupported: Istio accepts this field of the mesh configuration; tulle does not enforce it yet. The field is ignored, the others hold.
	CodeMeshUnsupported = "TUL1204"
	// CodeNotHonoured: a Kubernetes object, annotation or label says something that tulle does not do. Others may do it, so the object is used without it.
	CodeNotHonoured = "TUL1205"

	// CodeProject: the project file tulle.yaml says something that cannot be run. The message names the field and the rule.
	CodeProject = "TUL1301"

	// CodeHostTaken: several objects of a namespace define one host. A Kubernetes Service wins over a ServiceEntry, then the oldest wins.
	CodeHostTaken = "TUL1401"
	// CodeDefinedTwice: two files, or two sources, define the same object. One of them is used, and the message says which.
	CodeDefinedTwice = "TUL1402"
	// CodeDelegate: a VirtualService that others delegate to can't be merged: it is not exported to them, or its conditions contradict theirs.
	CodeDelegate = "TUL1411"
	// CodeSubsetTwice: DestinationRules for one host are merged, and two of them define a subset of the same name. The older definition holds.
	CodeSubsetTwice = "TUL1412"
	// CodePeerHidden: a PeerAuthentication never applies: another one holds for the same scope, or it has a selector in the root namespace.
	CodePeerHidden = "TUL1413"
	// CodeNotConverted: an accepted object can't be put to use. This is a defect of tulle; the object counts as absent.
	CodeNotConverted = "TUL1414"
	// CodeUnreadable: a file or a folder of the configuration can't be read. What was read of it before stays in force.
	CodeUnreadable = "TUL1421"
	// CodePolicyTwice: DestinationRules for one host are merged, and two of them have a traffic policy. The older one holds, the other is ignored as a whole.
	CodePolicyTwice = "TUL1415"
	// CodeLink: a symbolic link leads out of the configuration folder, or in a circle. It is not followed.
	CodeLink = "TUL1422"

	// CodeNotFound: an object refers to a host, port, subset, gateway or delegate that nothing defines.
	CodeNotFound = "IST0101"
	// CodeHostConflict: several VirtualServices claim one host for sidecars. Sidecars use the oldest of them.
	CodeHostConflict = "IST0109"
	// CodeSidecarSelectors: several Sidecars select one workload. The oldest of them applies.
	CodeSidecarSelectors = "IST0110"
	// CodeSidecarDefaults: a namespace has several Sidecars without a selector. The oldest of them applies.
	CodeSidecarDefaults = "IST0111"
	// CodePortRequired: a destination names no port, and its service has several.
	CodePortRequired = "IST0112"
	// CodeHostNotInGateway: a VirtualService is bound to a Gateway that serves none of its hosts.
	CodeHostNotInGateway = "IST0132"
	// CodeGatewayConflict: two servers of Gateways want one port of a gateway in different protocols, or one name of a port. The older one has it.
	CodeGatewayConflict = "IST0145"
	// CodeUnknownHost: a DestinationRule is for a host that no service has.
	CodeUnknownHost = "IST0174"

	// CodeInvalid: Istio's validation refuses the object. The message names the field and the rule.
	CodeInvalid = "IST0106"
	// CodeSuspicious: Istio's validation warns about the object: it is accepted, but probably does not do what it says.
	CodeSuspicious = "IST0133"

	// CodeUnreachable: a rule of a VirtualService is never used: rules before it take all its requests.
	CodeUnreachable = "IST0130"
	// CodeIneffective: a match of a VirtualService takes no request: an earlier one takes them all.
	CodeIneffective = "IST0131"
)
