package failure

import "testing"

func TestEveryKindOfFailureHasItsAnswer(t *testing.T) {
	details := map[string]Kind{}
	for k := range kindCount {
		a := answerTo(k)
		if a.Detail == "" {
			t.Errorf("kind %d has no answer", k)
		}
		if a.Status != 0 && a.Status < 200 || a.Status > 599 {
			t.Errorf("kind %d is answered with %d", k, a.Status)
		}
		details[a.Detail] = k
	}
	// A timeout is one to operators, whether the route or a call's own deadline set it.
	if want := int(kindCount) - 1; len(details) != want {
		t.Errorf("%d details of %d kinds, want %d", len(details), kindCount, want)
	}
	if a := answerTo(kindCount); a != (Answer{}) {
		t.Errorf("no kind is answered with %+v", a)
	}
}
