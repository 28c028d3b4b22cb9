package apis

// judge applies Istio's validation and the ledger to a decoded object.
func (o *Object) judge(k *kind) {
}
