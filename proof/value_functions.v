(** * Value functions

    When the expected return exists, and the equations that it solves. There
    are two cases, and one condition covers them: discounting, [γ < 1]; and
    [γ = 1] with episodes that surely end. *)

From PolicyGradient Require Export mdp.

Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Open Scope R_scope.

Section Values.
Context {State Action Reward : finType} {M : mdp State Action Reward}.
Implicit Types (π : policy M) (s x y : State) (a : Action) (f w : State -> R).

(** ** The condition

    [tail γ π N β]: what [N] steps leave of the total weight is at most [β],
    from whatever state the episode starts. The condition on [γ] and [π]
    under which values exist is that there are such an [N] and a [β] below 1.
    It says that the weights [γ ^ t * Pr(T >= t)] decay geometrically, as the
    book's lemma on the geometric tail does. *)

Definition tail γ π (N : nat) (β : R) := forall s, γ ^ N * alive π N s <= β.

Definition summable γ π :=
  0 <= γ <= 1 /\ exists N β, 0 <= β < 1 /\ tail γ π N β.

(** The first case. *)
Lemma summable_discounted γ π : 0 <= γ < 1 -> summable γ π.
Proof.
move=> γ01; split; first by lra.
exists 1%N, γ; split=> // s; rewrite pow_1.
by have := alive_le1 π 1 s; have := alive_ge0 π 1 s; nra.
Qed.

(** The second case. An episode ends with probability 1 if the probability
    that it has at least n steps tends to 0. *)

(* Book: def-sure-termination *)
Definition surely_terminates π :=
  forall s, is_lim_seq (fun n => alive π n s) 0.

Lemma tail_of_each π : (forall s, exists n, alive π n s < 1) ->
  exists N β, 0 <= β < 1 /\ tail 1 π N β.
Proof.
move=> each; have [|N N1] := @finite_bound _ (fun s n =>
  alive π n s < 1) _ each.
  by move=> s m n mn m1; apply: Rle_lt_trans m1; apply: alive_monotone.
have [β [β01 Nβ]] := finite_less1 N1.
by exists N, β; split=> // s; rewrite pow1 Rmult_1_l.
Qed.

Lemma summable_ending π : surely_terminates π -> summable 1 π.
Proof.
move=> ends; split; first by lra.
apply: tail_of_each => s.
have half : 0 < / 2 by lra.
have := proj2 (is_lim_seq_spec _ _) (ends s) (mkposreal _ half) => -[n /(_ n)].
move=> /(_ (le_n n)) /=; rewrite Rminus_0_r Rabs_pos_eq; last exact: alive_ge0.
by exists n; lra.
Qed.

(** ** The total weight is bounded *)

Lemma alive_add π N t s : alive π (N + t) s = E π N (alive π t) s.
Proof.
elim: N s => [|N IH] s; first by rewrite E_0.
by rewrite addSn alive_S E_S; apply: eq_bigr => x _; rewrite IH.
Qed.

(** With [n] a multiple of [N], by induction: the first [N] terms are at most
    1 each, and the rest is what is left, at most [β], times a sum of the same
    kind. *)
Lemma weight_bound γ π N β n s : 0 <= γ <= 1 -> 0 <= β < 1 -> tail γ π N β ->
  \sum_(t < n) γ ^ t * alive π t s <= INR N / (1 - β).
Proof.
move=> γ01 β01 tl; set B := INR N / (1 - β).
pose S n s := \sum_(t < n) γ ^ t * alive π t s.
have term01 t x : 0 <= γ ^ t * alive π t x <= 1.
  move: (pow_le1 t γ01) (alive_ge0 π t x) (alive_le1 π t x).
  by move: (γ ^ t) (alive π t x) => g u [? ?] ? ?; split; nra.
have N0 : (0 < N)%N.
  by case: N tl {B} => // /(_ s); rewrite pow_O alive_0; lra.
have B0 : 0 <= B.
  by apply: Rmult_le_pos; [exact: pos_INR|apply/Rlt_le/Rinv_0_lt_compat; lra].
have step m x : S m.+1 x = S m x + γ ^ m * alive π m x by rewrite /S sum_recr.
have mono m k x : S m x <= S (m + k)%N x.
  elim: k => [|k IH]; first by rewrite addn0; lra.
  by rewrite addnS step; move: (term01 (m + k)%N x); lra.
have first_N x : S N x <= INR N.
  elim: (N) => [|k IH]; first by rewrite /S big_ord0 /=; lra.
  by rewrite step S_INR; move: (term01 k x); lra.
have blocks k x : S (k * N)%N x <= B.
  elim: k x => [|k IH] x; first by rewrite mul0n /S big_ord0.
  rewrite mulSn /S big_split_ord /=.
  have -> : \sum_(i < k * N) γ ^ (N + i) * alive π (N + i) x =
      γ ^ N * \sum_y Pr π N x y * S (k * N)%N y.
    under [in RHS]eq_bigr do rewrite sum_mull.
    rewrite sum_swap sum_mull; apply: eq_bigr => i _.
    rewrite alive_add pow_add /E !sum_mull.
    by apply: eq_bigr => y _; ring.
  have rest : γ ^ N * (\sum_y Pr π N x y * S (k * N)%N y) <= β * B.
    apply: Rle_trans (_ : γ ^ N * (alive π N x * B) <= _).
      apply: Rmult_le_compat_l; first by apply: (proj1 (pow_le1 _ _)); lra.
      rewrite /alive sum_mulr; apply: sum_le => y.
      by apply: Rmult_le_compat_l; [exact: Pr_ge0|].
    by rewrite -Rmult_assoc; apply: Rmult_le_compat_r.
  have sumB : INR N + β * B = B by rewrite /B; field; lra.
  by rewrite -[X in _ <= X]sumB; apply: Rplus_le_compat (first_N x) rest.
apply: Rle_trans (blocks n s); rewrite -/(S n s).
have /subnKC <- : (n <= n * N)%N by rewrite leq_pmulr.
exact: mono.
Qed.

(** ** The discounted total of a function along an episode

    [total γ π f s] is the sum over t of γ^t times the expectation of f(S_t),
    for the episode from [s]. Values and visitations are totals, and what
    the chapter says about [I - γ P] and its inverse is said here about
    totals: [total γ π f] is the one solution of [x = f + γ P x]. *)

Definition total γ π f s := Series (fun t => γ ^ t * E π t f s).

Definition solves γ π f w :=
  forall s, w s = f s + γ * \sum_x P π s x * w x.

Section Totals.
Variables (γ : R) (π : policy M) (N : nat) (β : R).
Hypotheses (γ01 : 0 <= γ <= 1) (β01 : 0 <= β < 1) (tl : tail γ π N β).

Let B := INR N / (1 - β).

Lemma B_ge0 : 0 <= B.
Proof.
apply: Rmult_le_pos; first exact: pos_INR.
by apply/Rlt_le/Rinv_0_lt_compat; lra.
Qed.

Lemma weight_series s :
  ex_series (fun t => γ ^ t * alive π t s) /\
  Series (fun t => γ ^ t * alive π t s) <= B.
Proof.
apply: series_of_bounded => n; last by rewrite sum_n_ord; apply: weight_bound.
apply: Rmult_le_pos (alive_ge0 _ _ _); exact: (proj1 (pow_le1 _ γ01)).
Qed.

Lemma term_le f s t :
  Rabs (γ ^ t * E π t f s) <= γ ^ t * alive π t s * size1 f.
Proof.
rewrite Rabs_mult Rabs_pos_eq; last exact: (proj1 (pow_le1 _ γ01)).
rewrite Rmult_assoc; apply: Rmult_le_compat_l (E_le _ _ _ _).
exact: (proj1 (pow_le1 _ γ01)).
Qed.

Lemma dominating_series f s :
  ex_series (fun t => γ ^ t * alive π t s * size1 f).
Proof. by apply: ex_series_scal_r; case: (weight_series s). Qed.

Lemma total_abs f s : ex_series (fun t => Rabs (γ ^ t * E π t f s)).
Proof.
apply: ex_series_le (dominating_series f s) => t.
by rewrite /norm /= /abs /= Rabs_Rabsolu; apply: term_le.
Qed.

Lemma total_series f s :
  is_series (fun t => γ ^ t * E π t f s) (total γ π f s).
Proof. by apply/Series_correct/ex_series_Rabs/total_abs. Qed.

Lemma total_bound f s : Rabs (total γ π f s) <= B * size1 f.
Proof.
apply: Rle_trans (Series_Rabs _ (total_abs f s)) _.
apply: Rle_trans (Series_le _ _ _ (dominating_series f s)) _.
  by move=> t; split; [exact: Rabs_pos|exact: term_le].
rewrite Series_scal_r; apply: Rmult_le_compat_r (size1_ge0 _) _.
by case: (weight_series s).
Qed.

Arguments total_series : clear implicits.
(** What is left after n steps tends to 0. *)
Lemma remainder_vanishes f s : is_lim_seq (fun n => γ ^ n * E π n f s) 0.
Proof.
by apply: ex_series_lim_0; exists (total γ π f s); apply: total_series.
Qed.

Arguments remainder_vanishes : clear implicits.

Lemma total_solves f : solves γ π f (total γ π f).
Proof.
move=> s.
have whole : is_series (fun t => γ ^ t.+1 * E π t.+1 f s)
    (γ * \sum_x P π s x * total γ π f x).
  apply: (is_series_ext
      (fun t => scal γ (\sum_x P π s x * (γ ^ t * E π t f x)))).
    move=> t; rewrite E_S !sum_mull /scal /= /mult /= sum_mull.
    by apply: eq_bigr => x _; ring.
  apply: (is_series_scal_l γ); apply: is_series_sum => x.
  by apply: (is_series_scal_l (P π s x)); apply: total_series.
apply: is_series_unique.
have -> : f s = γ ^ 0 * E π 0 f s by rewrite E_0 /=; ring.
by rewrite Rplus_comm; apply: is_series_decr_1;
  rewrite /plus /opp /= Rplus_assoc Rplus_opp_r Rplus_0_r.
Qed.

(* Book: eq-value-gradient-unrolled *)
(** Unrolled: a solution is the sum of n terms and a remainder. *)
Lemma unroll f w n s : solves γ π f w ->
  w s = (\sum_(t < n) γ ^ t * E π t f s) + γ ^ n * E π n w s.
Proof.
move=> wf; elim: n => [|n ->]; first by rewrite big_ord0 E_0 /=; ring.
have -> : E π n w s = E π n f s + γ * E π n.+1 w s.
  by rewrite E_Sr -E_scal -E_plus; apply: E_ext.
by rewrite sum_recr pow_step /=; ring.
Qed.

Lemma total_unique f w : solves γ π f w -> forall s, w s = total γ π f s.
Proof.
move=> wf s; have /series_limit := total_series f s.
apply: limit_unique.
apply: (is_lim_seq_ext (fun n => w s - γ ^ n * E π n w s)).
  by move=> n; rewrite {1}(unroll n s wf); ring.
rewrite -{2}[w s]Rminus_0_r; apply: is_lim_seq_minus'.
  exact: is_lim_seq_const.
exact: remainder_vanishes.
Qed.

End Totals.
Arguments total_series {γ π N β} _ _ _ f s.
Arguments remainder_vanishes {γ π N β} _ _ _ f s.

(** ** The two values *)

Definition v γ π s := total γ π (r π) s.

(* Book: eq-action-value *)
Definition q γ π s a := lookahead M γ (v γ π) s a.

(** The value is the limit of the expected return of the first n steps. *)

(* Book: def-values *)
(* Book, in part: prop-values-exist *)
Theorem values_exist γ π s : summable γ π ->
  is_lim_seq (fun n => v_left γ π n s) (v γ π s).
Proof.
move=> [γ01 [N [β [β01 tl]]]].
have /series_limit := total_series γ01 β01 tl (r π) s.
by apply: is_lim_seq_ext => n; rewrite v_left_sum.
Qed.

(** How far the value with [n] steps left is from it: what the remaining
    weight can hold. *)

(* Book: prop-finite-horizon *)
Theorem finite_horizon_error γ π n s C : summable γ π ->
  (forall x, Rabs (v γ π x) <= C) ->
  Rabs (v_left γ π n s - v γ π s) <= γ ^ n * C.
Proof.
move=> [γ01 [N [β [β01 tl]]]] vC.
have -> : v_left γ π n s - v γ π s = - (γ ^ n * E π n (v γ π) s).
  rewrite (unroll (w := v γ π) n s (total_solves γ01 β01 tl (r π))).
  by rewrite v_left_sum; ring.
have g01 := pow_le1 n γ01.
rewrite Rabs_Ropp Rabs_mult (Rabs_pos_eq (γ ^ n)); last by case: g01.
apply: Rmult_le_compat_l; first by case: g01.
apply: Rle_trans (sum_Rabs _) _.
have C0 : 0 <= C by apply: Rle_trans (Rabs_pos _) (vC s).
apply: Rle_trans (_ : \sum_x Pr π n s x * C <= _).
  apply: sum_le => x; rewrite Rabs_mult (Rabs_pos_eq (Pr π n s x)) ?Pr_ge0 //.
    by apply: Rmult_le_compat_l (vC x); apply: Pr_ge0.
  exact: Pr_ge0.
by rewrite -sum_mulr -/(alive π n s); have := alive_le1 π n s; nra.
Qed.

Lemma v_terminal γ π s : summable γ π -> terminal M s -> v γ π s = 0.
Proof.
move=> [γ01 [N [β [β01 tl]]]] st; rewrite /v (total_solves γ01 β01 tl).
rewrite r_terminal // sum_zero => [|x]; first by ring.
by rewrite P_terminal // Rmult_0_l.
Qed.

(** The Bellman equation, written out. *)

(* Book: eq-bellman *)
Definition bellman γ π w := forall s, w s =
  \sum_a π a s * \sum_s' \sum_r p M s' r s a * (reward M r + γ * w s').

Lemma bellman_solves γ π w : bellman γ π w <-> solves γ π (r π) w.
Proof. by split=> eqn s; rewrite (eqn s) -lookahead_policy. Qed.

(* Book: prop-values, eq-state-value *)
Theorem state_value γ π s : summable γ π -> v γ π s = \sum_a π a s * q γ π s a.
Proof.
move=> [γ01 [N [β [β01 tl]]]].
by rewrite lookahead_policy /v {1}(total_solves γ01 β01 tl).
Qed.

Theorem bellman_equation γ π : summable γ π -> bellman γ π (v γ π).
Proof. by move=> sm s; rewrite {1}(state_value s sm). Qed.

Theorem bellman_unique γ π w : summable γ π -> bellman γ π w ->
  forall s, w s = v γ π s.
Proof.
by move=> [γ01 [N [β [β01 tl]]]] /bellman_solves;
  apply: (total_unique γ01 β01 tl).
Qed.

(** [I - γ P] is invertible if for every right-hand side there is exactly one
    solution. *)
Definition invertible γ π := forall f,
  exists w, solves γ π f w /\ forall w', solves γ π f w' ->
    forall s, w' s = w s.

Lemma summable_invertible γ π : summable γ π -> invertible γ π.
Proof.
move=> [γ01 [N [β [β01 tl]]]] f; exists (total γ π f).
split; first exact: total_solves γ01 β01 tl f.
by move=> w'; exact: (total_unique γ01 β01 tl).
Qed.

(* Book: thm-bellman-discounted *)
Theorem bellman_discounted γ π : 0 <= γ < 1 ->
  [/\ invertible γ π,
      forall f s, is_series (fun t => γ ^ t * E π t f s) (total γ π f s),
      forall f, solves γ π f (total γ π f),
      bellman γ π (v γ π)
    & forall w, bellman γ π w -> forall s, w s = v γ π s].
Proof.
move=> /(summable_discounted π) sm; split.
- exact: summable_invertible.
- case: sm => γ01 [N [β [β01 tl]]] f s; exact: total_series γ01 β01 tl f s.
- case: sm => γ01 [N [β [β01 tl]]] f; exact: total_solves γ01 β01 tl f.
- exact: bellman_equation.
- by move=> w; apply: bellman_unique.
Qed.

(** Without discounting: if [I - P] is invertible, the limit x of Pr(T >= n)
    solves x = P x, and so is 0. *)

(* Book: thm-bellman-undiscounted *)
Theorem bellman_undiscounted π :
  (invertible 1 π <-> surely_terminates π) /\
  (surely_terminates π ->
   [/\ forall f s, is_series (fun t => E π t f s) (total 1 π f s),
       forall f, solves 1 π f (total 1 π f),
       bellman 1 π (v 1 π)
     & forall w, bellman 1 π w -> forall s, w s = v 1 π s]).
Proof.
split; last first.
  move=> /summable_ending sm; split; last by move=> w; apply: bellman_unique.
  - case: sm => γ01 [N [β [β01 tl]]] f s.
    apply: is_series_ext (total_series γ01 β01 tl f s) => t.
    by rewrite pow1 Rmult_1_l.
  - case: sm => γ01 [N [β [β01 tl]]] f; exact: total_solves γ01 β01 tl f.
  - exact: bellman_equation.
split; last by move=> /summable_ending; apply: summable_invertible.
move=> inv.
have lim s : is_lim_seq (fun n => alive π n s)
    (real (Lim_seq (fun n => alive π n s))).
  apply: Lim_seq_correct'; apply: (ex_finite_lim_seq_decr _ 0) => n.
    exact: alive_decr.
  exact: alive_ge0.
pose x s := real (Lim_seq (fun n => alive π n s)).
have fixed : solves 1 π (fun=> 0) x.
  move=> s; apply: (@limit_unique (fun n => alive π n.+1 s)).
    exact: (is_lim_seq_incr_1 (fun n => alive π n s) (x s)).1 (lim s).
  rewrite Rplus_0_l Rmult_1_l.
  apply: (is_lim_seq_ext (fun n => \sum_y P π s y * alive π n y)) => [n|].
    by rewrite alive_S.
  by apply: is_lim_seq_sum => y;
    exact: (is_lim_seq_scal_l _ (P π s y) (x y) (lim y)).
have zero : solves 1 π (fun=> 0) (fun=> 0).
  by move=> s; rewrite sum_zero; [ring|move=> y; rewrite Rmult_0_r].
have [w [_ only]] := inv (fun=> 0).
move=> s; have <- : x s = 0 by rewrite (only _ fixed) -(only _ zero).
exact: lim.
Qed.

(** Sure termination is a matter of which steps are possible, not of how
    probable they are. *)

Definition can_step π : rel State := fun x y => Rlt_dec 0 (P π x y).

Lemma alive_path π t short : path (can_step π) t short ->
  terminal M (last t short) -> alive π (size short).+1 t < 1.
Proof.
elim: short t => [|y ys IH] t.
  move=> _ /= tt; rewrite alive_S sum_zero => [|x]; first by lra.
  by rewrite P_terminal // Rmult_0_l.
rewrite /= => /andP[]; rewrite /can_step;
  case: Rlt_dec => // step _ /IH more /more less.
rewrite alive_S.
have whole : \sum_x P π t x * alive π (size ys).+1 x =
    (\sum_x P π t x) - \sum_x P π t x * (1 - alive π (size ys).+1 x).
  by rewrite -sum_minus; apply: eq_bigr => x _; ring.
have one : P π t y * (1 - alive π (size ys).+1 y) <=
    \sum_x P π t x * (1 - alive π (size ys).+1 x).
  apply: (term_le_sum (f := fun x =>
    P π t x * (1 - alive π (size ys).+1 x))) => x.
  have := alive_le1 π (size ys).+1 x => ?.
  by apply: Rmult_le_pos; [exact: P_ge0|lra].
have row : \sum_x P π t x <= 1 by rewrite P_row /ind; case: (~~ _) => /=; lra.
have pos : 0 < P π t y * (1 - alive π (size ys).+1 y).
  by apply: Rmult_lt_0_compat; lra.
by rewrite whole; lra.
Qed.

(* Book: lem-termination *)
Theorem termination_by_reachability π :
  (forall s, exists2 t, connect (can_step π) s t & terminal M t) ->
  surely_terminates π /\
  exists ε, [/\ 0 < ε <= 1,
    forall k s, alive π (k * #|State|).+1 s <= (1 - ε) ^ k
  & forall s, ex_series (fun t => alive π t.+1 s) /\
      Series (fun t => alive π t.+1 s) <= INR #|State| / ε].
Proof.
move=> reach; set n := #|State|.
have n1 s : alive π n s < 1.
  case: (reach s) => t /connectP [walk stepping ->].
  case: (shortenP stepping) => short shortly once _ at_end.
  apply: (Rle_lt_trans _ _ _ _ (alive_path shortly at_end)).
  apply: alive_monotone; rewrite -/(size (s :: short)) -(card_uniqP once).
  exact: max_card.
have [β [β01 nβ]] := finite_less1 n1.
have tl : tail 1 π n β by move=> s; rewrite pow1 Rmult_1_l.
have γ01 : 0 <= 1 <= 1 by lra.
split.
  move=> s; apply: is_lim_seq_ext (remainder_vanishes γ01 β01 tl (fun=> 1) s)
    => m.
  by rewrite pow1 Rmult_1_l /E /alive; apply: eq_bigr => x _; ring.
exists (1 - β); split; first by lra.
  move=> k s; apply: Rle_trans (alive_decr _ _ _) _.
  have -> : 1 - (1 - β) = β by ring.
  elim: k s => [|k IH] s; first by rewrite mul0n alive_0 /=; lra.
  rewrite mulSn alive_add pow_step /E.
  apply: Rle_trans (_ : alive π n s * β ^ k <= _); last first.
    by apply: Rmult_le_compat_r => //; apply: pow_le; lra.
  rewrite /alive sum_mulr; apply: sum_le => x.
  by apply: Rmult_le_compat_l; [exact: Pr_ge0|exact: IH].
move=> s; have [ex le_B] := weight_series γ01 β01 tl s.
have ex1 : ex_series (fun t => alive π t s).
  by apply: ex_series_ext ex => t; rewrite pow1 Rmult_1_l.
have exS : ex_series (fun t => alive π t.+1 s).
  by apply/(ex_series_incr_1 (fun t => alive π t s)).
split=> //; apply: Rle_trans (_ : Series (fun t => alive π t s) <= _).
  by apply: Series_le => // t; split; [exact: alive_ge0|exact: alive_decr].
apply: Rle_trans (_ : Series (fun t => 1 ^ t * alive π t s) <= _).
  by apply/Req_le/Series_ext => t; rewrite pow1 Rmult_1_l.
exact: le_B.
Qed.

End Values.

Arguments total_series {State Action Reward M γ π N β} _ _ _ f s.
Arguments remainder_vanishes {State Action Reward M γ π N β} _ _ _ f s.
