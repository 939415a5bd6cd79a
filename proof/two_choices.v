(** * Two choices, by hand

    A definition cannot be proved right, but it can be tried out. This is the
    smallest example of the book: in the first state one may leave with a
    reward of x, or go on to the second; there one may take a reward of 1, or
    leave it. The definitions give the value that the book finds by hand. *)

From PolicyGradient Require Export surrogates.

Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Open Scope R_scope.

Section TwoChoices.
Variable x : R.

(** The states are the first, the second and the end. The action [true] is to
    go on, or to take the reward. *)

Definition state := option bool.
Notation first := (Some false).
Notation second := (Some true).
Notation over := None.

Definition outcome (s : state) (a : bool) : state * option bool :=
  match s, a with
  | first, true => (second, None)
  | first, false => (over, Some false)
  | second, true => (over, Some true)
  | _, _ => (over, None)
  end.

Definition amount (r : option bool) : R :=
  match r with None => 0 | Some false => x | Some true => 1 end.

Definition chance (s' : state) (r : option bool) (s : state) (a : bool) : R :=
  ind ((s', r) == outcome s a).

Lemma chance_sum (F : state -> option bool -> R) s a :
  \sum_s' \sum_r chance s' r s a * F s' r = F (outcome s a).1 (outcome s a).2.
Proof.
rewrite (sum_only (x := (outcome s a).1)) => [|s' ss].
  rewrite (sum_only (x := (outcome s a).2)) => [|r rr].
    by rewrite /chance -surjective_pairing eqxx /= Rmult_1_l.
  by rewrite /chance -pair_eqE /= (negbTE rr) andbF /= Rmult_0_l.
apply: sum_zero => r.
by rewrite /chance -pair_eqE /= (negbTE ss) /= Rmult_0_l.
Qed.

Definition two_choices : mdp [finType of state] [finType of bool]
    [finType of option bool].
Proof.
apply: (@Mdp _ _ _ (fun s _ => s != over) amount chance) => [s' r s a _|s a _].
  by rewrite /chance /ind; case: (_ == _); lra.
rewrite -[RHS](chance_sum (fun _ _ => 1) s a).
by apply: eq_bigr => s' _; apply: eq_bigr => r _; rewrite Rmult_1_r.
Defined.

(** Going on has the probability [p], taking the reward [q]. *)

Variables (p q : R).
Hypotheses (p01 : 0 <= p <= 1) (q01 : 0 <= q <= 1).

Definition choose (a : bool) (s : state) : R :=
  match s, a with
  | first, true => p | first, false => 1 - p
  | second, true => q | second, false => 1 - q
  | over, _ => 0
  end.

Definition choices : policy two_choices.
Proof.
apply: (@Policy _ _ _ two_choices choose).
- by case=> [] [[]|] /=; lra.
- by move=> a [b|] //=.
- case=> [[]|] live; rewrite ?sum_bool /=; try lra.
  by case/negP: live; apply/negP => /existsP [].
Defined.

(** Nobody makes more than two steps. *)

Lemma P_choices (w : state -> R) s :
  \sum_y P choices s y * w y =
  choose true s * w (outcome s true).1 + choose false s * w (outcome s false).1.
Proof.
rewrite -P_average sum_bool; congr (_ * _ + _ * _).
  rewrite -(chance_sum (fun y _ => w y) s true); apply: eq_bigr => y _.
  by rewrite /transition sum_mulr.
rewrite -(chance_sum (fun y _ => w y) s false); apply: eq_bigr => y _.
by rewrite /transition sum_mulr.
Qed.

Lemma choices_end s : alive choices 3 s = 0.
Proof.
by rewrite !(alive_S, P_choices); case: s => [[]|] /=; rewrite ?P_choices /=;
  ring.
Qed.

Lemma choices_summable γ : 0 <= γ <= 1 -> summable γ choices.
Proof.
move=> γ01; split=> //; exists 3%N, 0; split; first by lra.
by move=> s; rewrite choices_end Rmult_0_r; lra.
Qed.

Definition worth γ (s : state) : R :=
  match s with
  | first => (1 - p) * x + γ * p * q | second => q | over => 0
  end.

(* Book: eq-two-choices *)
(* Book, in part: exm-two-choices *)
Theorem two_choices_value γ : 0 <= γ <= 1 ->
  J γ choices (fun s => ind (s == first)) = (1 - p) * x + γ * p * q.
Proof.
move=> γ01; rewrite /J sum_ind.
rewrite -(bellman_unique (w := worth γ) (choices_summable γ01)) // => s.
rewrite sum_bool !(chance_sum (fun s' r => amount r + γ * worth γ s')).
by case: s => [[]|] /=; ring.
Qed.

End TwoChoices.
