package problem

import "encoding/json"

// wireProblem is the stable JSON of a problem: fields may be added, none may change.
type wireProblem struct {
	Code      string `json:"code"`
	Level     Level  `json:"level"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Path      string `json:"path"`
	File      string `json:"file"`
	Line      int    `json:"line"`
	Column    int    `json:"column"`
	Message   string `json:"message"`
	Hint      string `json:"hint"`
	Effect    string `json:"effect"`
}

// MarshalJSON writes the stable form that `tulle analyze -o json` promises: one flat object.
func (p Problem) MarshalJSON() ([]byte, error) {
	return json.Marshal(wireProblem{
		Code: p.Code, Level: p.Level,
		Kind: p.Key.Kind, Namespace: p.Key.Namespace, Name: p.Key.Name,
		Path: p.Path, File: p.Position.File, Line: p.Position.Line, Column: p.Position.Column,
		Message: p.Message, Hint: p.Hint, Effect: p.Effect,
	})
}

// UnmarshalJSON reads what MarshalJSON writes.
func (p *Problem) UnmarshalJSON(data []byte) error {
	var w wireProblem
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	*p = Problem{
		Code: w.Code, Level: w.Level, Key: Key{Kind: w.Kind, Namespace: w.Namespace, Name: w.Name},
		Path: w.Path, Position: Position{File: w.File, Line: w.Line, Column: w.Column},
		Message: w.Message, Hint: w.Hint, Effect: w.Effect,
	}
	return nil
}
