(** * The policy gradient theorem

    The parameters are the points of a normed space [V], for instance R^d; a
    family of policies is a map [π] from [V] to policies. All that is assumed
    of it is that each probability is differentiable at the point [θ] at which
    the gradient is taken: [dπ a s] is the derivative of [π(a|s)], a linear
    map from steps [h] to numbers.

    The proof is neither of the two in the chapter. The book differentiates
    the inverse of a matrix, or a sum over trajectories whose derivatives
    converge uniformly. Here the error e of the linear approximation is seen
    to solve a Bellman equation of its own, e = F + γ P e, in which F is small
    compared with the step. So e is small compared with the step: that is the
    derivative, its existence included. *)

From PolicyGradient Require Export value_functions.

Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Open Scope R_scope.

Section PolicyGradient.
Context {State Action Reward : finType} {M : mdp State Action Reward}.
Implicit Types (s x y : State) (a : Action) (μ f : State -> R).

(** ** Performance and visitation *)

(* Book: def-performance, eq-performance *)
Definition J γ (π : policy M) μ := \sum_s μ s * v γ π s.

(** The same for episodes that are stopped after [T] steps. *)
Definition J_cut γ (π : policy M) μ T := \sum_s μ s * v_at γ π T 0 s.

(** The probability of being in [s] after [t] steps, for an episode that
    starts as [μ] says. *)
Definition Pr_from (π : policy M) μ t s := \sum_s0 μ s0 * Pr π t s0 s.

(** How often a state is visited before the end of the episode, with visits
    at time t counted γ^t times. A terminal state is not visited: the episode
    is over. *)

(* Book: def-visitation, eq-visitation *)
Definition η γ (π : policy M) μ s :=
  Series (fun t => γ ^ t * (ind (~~ terminal M s) * Pr_from π μ t s)).

Section Visitation.
Variables (γ : R) (π : policy M) (N : nat) (β : R).
Hypotheses (γ01 : 0 <= γ <= 1) (β01 : 0 <= β < 1) (tl : tail γ π N β).

(** Being in [y], before the end. *)
Let at_ y x := ind (~~ terminal M y) * ind (x == y).

Lemma E_at t y s : E π t (at_ y) s = ind (~~ terminal M y) * Pr π t s y.
Proof.
rewrite /E (sum_only (x := y)) => [|x /negbTE xy]; rewrite /at_.
  by rewrite eqxx /=; rewrite /ind; ring.
by rewrite xy /=; ring.
Qed.

Lemma visitation_series μ y : is_series
  (fun t => γ ^ t * (ind (~~ terminal M y) * Pr_from π μ t y)) (η γ π μ y) /\
  η γ π μ y = \sum_s μ s * total γ π (at_ y) s.
Proof.
have sr : is_series
    (fun t => γ ^ t * (ind (~~ terminal M y) * Pr_from π μ t y))
    (\sum_s μ s * total γ π (at_ y) s).
  apply: (is_series_ext (fun t => \sum_s μ s * (γ ^ t * E π t (at_ y) s))).
    move=> t; rewrite /Pr_from !sum_mull; apply: eq_bigr => s _.
    by rewrite E_at; real_ring.
  apply: is_series_sum => s; apply: (is_series_scal_l (μ s)).
  exact: total_series γ01 β01 tl _ _.
by have -> : η γ π μ y = _ := is_series_unique _ _ sr.
Qed.

(** A total is a sum over the states that are visited. *)
Lemma total_expand f s : total γ π f s =
  \sum_y total γ π (fun x => ind (x == y)) s * f y.
Proof.
apply: is_series_unique.
apply: (is_series_ext (fun t =>
    \sum_y γ ^ t * E π t (fun x => ind (x == y)) s * f y)).
  move=> t; under eq_bigr do rewrite Rmult_assoc.
  rewrite -sum_mull; congr (_ * _); rewrite {2}/E; apply: eq_bigr => y _.
  congr (_ * _); rewrite /E (sum_only (x := y)) => [|x /negbTE ->].
    by rewrite eqxx /= Rmult_1_r.
  by rewrite /= Rmult_0_r.
apply: is_series_sum => y; apply: is_series_scal_r.
exact: total_series γ01 β01 tl _ _.
Qed.

(* Book: eq-visitation-expectation *)
Theorem visitation_expectation μ f : (forall s, terminal M s -> f s = 0) ->
  \sum_s μ s * total γ π f s = \sum_y η γ π μ y * f y.
Proof.
move=> f0; under [RHS]eq_bigr do rewrite (visitation_series _ _).2 sum_mulr.
rewrite sum_swap; apply: eq_bigr => s _.
rewrite total_expand sum_mull; apply: eq_bigr => y _.
case: (boolP (terminal M y)) => yt; first by rewrite f0 // !Rmult_0_r.
suff -> : total γ π (at_ y) s = total γ π (fun x => ind (x == y)) s by ring.
apply: Series_ext => t; congr (_ * _); apply: E_ext => x.
by rewrite /at_ yt /=; rewrite /ind; ring.
Qed.

(** Entered at the start, or from a state that was visited one step before. *)

(* Book: eq-visitation-fixed-point *)
Theorem visitation_fixed_point μ y : ~~ terminal M y ->
  η γ π μ y = μ y + γ * \sum_x η γ π μ x * P π x y.
Proof.
move=> yl.
have one s : total γ π (at_ y) s = at_ y s + γ * total γ π (P π ^~ y) s.
  have sr := total_series γ01 β01 tl (P π ^~ y) s.
  have sr' : is_series (fun t => γ ^ t.+1 * E π t.+1 (at_ y) s)
      (γ * total γ π (P π ^~ y) s).
    apply: is_series_ext (is_series_scal_l γ _ _ sr) => t.
    rewrite /scal /= /mult /= -Rmult_assoc E_Sr; congr (_ * _).
    apply: E_ext => x; rewrite (sum_only (x := y)) => [|z /negbTE zy].
      by rewrite /at_ eqxx yl /= !Rmult_1_r.
    by rewrite /at_ zy /= !Rmult_0_r.
  have ex := ex_intro _ _ (total_series γ01 β01 tl (at_ y) s).
  rewrite /total (Series_incr_1 _ ex).
  by rewrite E_0 pow_O Rmult_1_l (is_series_unique _ _ sr').
rewrite (visitation_series μ y).2 -visitation_expectation => [|x xt];
  last first.
  exact: P_terminal.
under eq_bigr do rewrite one Rmult_plus_distr_l; rewrite sum_plus;
  congr (_ + _).
  rewrite (sum_only (x := y)) => [|x /negbTE xy];
    last by rewrite /at_ xy /= !Rmult_0_r.
  by rewrite /at_ eqxx yl /= !Rmult_1_r.
by rewrite sum_mull; apply: eq_bigr => s _; ring.
Qed.

(** The mass of the visitation is the expected number of steps, a step at
    time t counted γ^t times. *)
Theorem visitation_mass μ : is_series
  (fun t => γ ^ t * \sum_s μ s * alive π t.+1 s) (\sum_y η γ π μ y).
Proof.
apply: (is_series_ext (fun t =>
    \sum_y γ ^ t * (ind (~~ terminal M y) * Pr_from π μ t y))); last first.
  by apply: is_series_sum => y; apply: (visitation_series μ y).1.
move=> t; rewrite -sum_mull; congr (_ * _).
under [RHS]eq_bigr do rewrite alive_live sum_mull.
rewrite sum_swap; apply: eq_bigr => y _.
by rewrite /Pr_from sum_mull; apply: eq_bigr => s _; ring.
Qed.

End Visitation.
Arguments visitation_mass {γ π N β} _ _ _ μ.

(** Where nothing terminates, the mass is 1 / (1 - γ). *)
Theorem visitation_mass_endless γ (π : policy M) μ : 0 <= γ < 1 ->
  (forall s, ~~ terminal M s) -> \sum_s μ s = 1 ->
  \sum_s η γ π μ s = / (1 - γ).
Proof.
move=> γ01 live μ1.
have [γ01' [N [β [β01 tl]]]] := summable_discounted π γ01.
have sr := visitation_mass γ01' β01 tl μ.
rewrite -(is_series_unique _ _ sr); apply: is_series_unique.
apply: is_series_ext (is_series_geom γ _); last by rewrite Rabs_pos_eq; lra.
move=> t; under eq_bigr do rewrite (alive_endless π _ _ live) Rmult_1_r.
by rewrite μ1 Rmult_1_r.
Qed.

(** ** A family of policies, differentiable at θ *)

Section Family.
Variables (V : NormedModule R_AbsRing) (π : V -> policy M) (θ : V).
Variable dπ : Action -> State -> V -> R.

(** The derivative of the policy, and what follows from it for the matrix [P]
    and the vector [r]. *)

(* Book: def-parametric-policy *)
Definition differentiable_policy :=
  forall a s, gradient_at (fun θ' => π θ' a s) θ (dπ a s).

Definition dP x y (h : V) := \sum_a dπ a x h * transition M y x a.
Definition dr x (h : V) := \sum_a dπ a x h * expected_reward M x a.

Hypothesis π_dπ : differentiable_policy.

Lemma dπ_linear a s : is_linear (dπ a s).
Proof. exact: gradient_linear (π_dπ a s). Qed.

Lemma P_gradient x y : gradient_at (fun θ' => P (π θ') x y) θ (dP x y).
Proof.
apply: gradient_sum => a.
apply: (gradient_ext (f := fun θ' => transition M y x a * π θ' a x)).
  by move=> θ'; ring.
apply: gradient_same (gradient_scal _ (π_dπ a x)) => h; ring.
Qed.

Lemma r_gradient x : gradient_at (fun θ' => r (π θ') x) θ (dr x).
Proof.
apply: gradient_sum => a.
apply: (gradient_ext (f := fun θ' => expected_reward M x a * π θ' a x)).
  by move=> θ'; ring.
apply: gradient_same (gradient_scal _ (π_dπ a x)) => h; ring.
Qed.

(** The sum of the derivatives over the actions is 0, because the sum of the
    probabilities is constant. *)
Lemma dπ_sum s h : \sum_a dπ a s h = 0.
Proof.
have sumD := gradient_sum (fun a => π_dπ a s).
apply: (gradient_unique (E := fun=> 0) h sumD).
apply: gradient_ext (gradient_const (ind (~~ terminal M s)) θ) => θ'.
by rewrite prob_sum.
Qed.

Lemma dπ_unavailable a s h : ~~ available M s a -> dπ a s h = 0.
Proof.
move=> sa; apply: (gradient_unique (E := fun=> 0) h (π_dπ a s)).
by apply: gradient_ext (gradient_const 0 θ) => θ'; rewrite prob_support.
Qed.

(** Where a probability is 0 it is as small as it can be, and its derivative
    is 0. So scores, which divide by the probability, will need no condition:
    what is divided by 0 has the probability 0. *)
Lemma dπ_zero a s h : π θ a s = 0 -> dπ a s h = 0.
Proof.
by move=> π0; apply: (gradient_minimum h (π_dπ a s)) => θ'; rewrite π0;
  apply: prob_ge0.
Qed.

(** ** A fixed number of steps

    Everything is a finite sum here, and the product rule does it. *)

Lemma lookahead_gradient γ (w : V -> State -> R) (dw : State -> V -> R) s a :
  (forall x, gradient_at (fun θ' => w θ' x) θ (dw x)) ->
  gradient_at (fun θ' => lookahead M γ (w θ') s a) θ
    (fun h => γ * \sum_x transition M x s a * dw x h).
Proof.
move=> wdw.
apply: (gradient_ext (f := fun θ' => expected_reward M s a +
    γ * \sum_x transition M x s a * w θ' x)).
  by move=> θ'; rewrite lookahead_expected.
apply: gradient_same; last first.
  apply: gradient_plus (gradient_const _ _) _.
  apply: gradient_scal; apply: gradient_sum => x.
  exact: gradient_scal (wdw x).
by move=> h /=; rewrite Rplus_0_l.
Qed.

Fixpoint dv_left γ (n : nat) s (h : V) : R :=
  if n is n'.+1 then
    (\sum_a lookahead M γ (v_left γ (π θ) n') s a * dπ a s h) +
    γ * \sum_x P (π θ) s x * dv_left γ n' x h
  else 0.

Lemma dv_left_S γ n s h : dv_left γ n.+1 s h =
  (\sum_a lookahead M γ (v_left γ (π θ) n) s a * dπ a s h) +
  γ * \sum_x P (π θ) s x * dv_left γ n x h.
Proof. by []. Qed.

Lemma v_left_gradient γ n s :
  gradient_at (fun θ' => v_left γ (π θ') n s) θ (dv_left γ n s).
Proof.
elim: n s => [|n IH] s; first exact: gradient_const.
apply: gradient_same; last first.
  apply: gradient_sum => a; apply: gradient_mult (π_dπ a s) _.
  exact: (lookahead_gradient γ s a IH).
move=> h; rewrite dv_left_S /= sum_plus; congr (_ + _).
  by apply: eq_bigr => a _; rewrite Rmult_comm.
under eq_bigr do rewrite -Rmult_assoc (Rmult_comm _ γ) Rmult_assoc.
by rewrite -sum_mull P_average.
Qed.

(** Unrolled. *)
Lemma dv_left_sum γ n s h : dv_left γ n s h =
  \sum_(t < n) γ ^ t * E (π θ) t (fun x =>
    \sum_a lookahead M γ (v_left γ (π θ) (n - t.+1)) x a * dπ a x h) s.
Proof.
elim: n s => [|n IH] s; first by rewrite big_ord0.
rewrite dv_left_S sum_recl pow_O E_0 Rmult_1_l subn1; congr (_ + _).
under [RHS]eq_bigr do rewrite lift0 E_S subSS pow_step Rmult_assoc.
rewrite -sum_mull; congr (_ * _).
under [RHS]eq_bigr do rewrite sum_mull.
rewrite sum_swap; apply: eq_bigr => x _; rewrite IH sum_mull.
by apply: eq_bigr => t _; ring.
Qed.

(* Book: prop-finite-horizon-gradient, eq-finite-horizon-gradient *)
Theorem finite_horizon_gradient γ μ T :
  gradient_at (fun θ' => J_cut γ (π θ') μ T) θ (fun h =>
    \sum_(t < T) γ ^ t * \sum_s Pr_from (π θ) μ t s *
      \sum_a q_at γ (π θ) T t s a * dπ a s h).
Proof.
apply: gradient_same; last first.
  apply: gradient_sum => s; apply: (gradient_scal (μ s)).
  by rewrite /v_at subn0; apply: v_left_gradient.
move=> h /=; under eq_bigr do rewrite dv_left_sum sum_mull.
rewrite sum_swap; apply: eq_bigr => t _; rewrite /Pr_from.
under [in RHS]eq_bigr do rewrite sum_mulr.
rewrite sum_swap sum_mull; apply: eq_bigr => s _.
rewrite /E -!Rmult_assoc (Rmult_comm (μ s)) Rmult_assoc; congr (_ * _).
by rewrite sum_mull; apply: eq_bigr => x _; rewrite Rmult_assoc.
Qed.

(** ** The condition holds nearby

    If values exist at θ, they exist in a neighbourhood of θ, with one and the
    same bound: the probability to have [N] steps is a polynomial in the
    entries of the policy, so it is continuous. *)

Lemma alive_continuous t s : continuous (fun θ' => alive (π θ') t s) θ.
Proof.
elim: t s => [|t IH] s.
  apply: (continuous_ext (fun=> 1)) => [θ'|]; first by rewrite alive_0.
  exact: continuous_const.
apply: (continuous_ext (fun θ' => \sum_x P (π θ') s x * alive (π θ') t x)).
  by move=> θ'; rewrite alive_S.
apply: continuous_sum => x.
exact: (continuous_mult _ _ _ (gradient_continuous (P_gradient s x)) (IH x)).
Qed.

Arguments alive_continuous : clear implicits.

(* Book, in part: lem-geometric-tail *)
Lemma summable_nearby γ : summable γ (π θ) ->
  0 <= γ <= 1 /\ exists N β, [/\ 0 <= β < 1, tail γ (π θ) N β &
    locally θ (fun θ' => tail γ (π θ') N β)].
Proof.
move=> [γ01 [N [β [β01 tl]]]]; split=> //; exists N, ((1 + β) / 2).
split; first by lra.
  by move=> s; apply: Rle_trans (tl s) _; lra.
apply: filter_finite => s.
have ε0 : 0 < (1 - β) / 2 by lra.
have cont : continuous (fun θ' => γ ^ N * alive (π θ') N s) θ.
  exact: (continuous_scal_r (γ ^ N) _ _ (alive_continuous N s)).
apply: filter_imp (continuous_near cont ε0) => θ' /Rabs_def2 [close _].
by move: (tl s); lra.
Qed.

(** ** The derivative of a total

    Let [f] be a reward for being in a state, which may depend on the
    parameters. Its total changes because [f] changes and because the matrix
    changes, and the change has a total of its own. *)

Section TotalGradient.
Variables (γ : R) (f : V -> State -> R) (df : State -> V -> R).
Hypothesis f_df : forall x, gradient_at (fun θ' => f θ' x) θ (df x).
Hypothesis sm : summable γ (π θ).

Let u := total γ (π θ) (f θ).

(** The change at one place, to first order. *)
Definition change x (h : V) := df x h + γ * \sum_y dP x y h * u y.

Lemma change_gradient x : gradient_at
  (fun θ' => f θ' x + γ * \sum_y P (π θ') x y * u y) θ (change x).
Proof.
apply: gradient_plus (f_df x) (gradient_scal _ _); apply: gradient_sum => y.
apply: (gradient_ext (f := fun θ' => u y * P (π θ') x y)) => [θ'|];
  first by ring.
apply: gradient_same (gradient_scal (u y) (P_gradient x y)) => h; ring.
Qed.

Definition dtotal s (h : V) := total γ (π θ) (change ^~ h) s.

Lemma dtotal_linear s : is_linear (dtotal s).
Proof.
have [γ01 [N [β [β01 tl]]]] := sm.
have lin : is_linear (fun h =>
    \sum_y total γ (π θ) (fun x => ind (x == y)) s * change y h).
  apply: linear_sum => y; apply: linear_mull.
  exact: gradient_linear (change_gradient y).
apply: (gradient_linear (f := dtotal s) (θ := zero)).
apply: (gradient_same (D := fun h =>
    \sum_y total γ (π θ) (fun x => ind (x == y)) s * change y h)).
  by move=> h; rewrite /dtotal (total_expand γ01 β01 tl).
apply: (gradient_ext (f := fun h =>
    \sum_y total γ (π θ) (fun x => ind (x == y)) s * change y h)).
  by move=> h; rewrite /dtotal (total_expand γ01 β01 tl).
exact: filterdiff_linear.
Qed.

(** What the linear approximation gets wrong at one place, apart from what
    it gets wrong elsewhere. *)
Definition fault θ' x :=
  (f θ' x + γ * (\sum_y P (π θ') x y * u y) -
   (f θ x + γ * \sum_y P (π θ) x y * u y) - change x (minus θ' θ)) +
  γ * \sum_y (P (π θ') x y - P (π θ) x y) * dtotal y (minus θ' θ).

(** The error is the total of the faults: it solves their Bellman
    equation. *)
Lemma error_solves θ' N' β' : 0 <= γ <= 1 -> 0 <= β' < 1 ->
  tail γ (π θ') N' β' ->
  solves γ (π θ') (fault θ')
    (fun s => total γ (π θ') (f θ') s - u s - dtotal s (minus θ' θ)).
Proof.
have [γ01 [N [β [β01 tl]]]] := sm.
move=> _ β'01 tl' s.
rewrite {1}(total_solves γ01 β'01 tl') /u {1}(total_solves γ01 β01 tl) -/u.
rewrite {1}/dtotal (total_solves γ01 β01 tl) /fault.
have -> : \sum_y (P (π θ') s y - P (π θ) s y) * dtotal y (minus θ' θ) =
    (\sum_y P (π θ') s y * dtotal y (minus θ' θ)) -
    \sum_y P (π θ) s y * dtotal y (minus θ' θ).
  by rewrite -sum_minus; apply: eq_bigr => y _; ring.
have -> : \sum_x P (π θ') s x * (total γ (π θ') (f θ') x - u x -
      dtotal x (minus θ' θ)) =
    (\sum_x P (π θ') s x * total γ (π θ') (f θ') x) -
    (\sum_x P (π θ') s x * u x) -
    \sum_x P (π θ') s x * dtotal x (minus θ' θ).
  by rewrite -!sum_minus; apply: eq_bigr => y _; ring.
rewrite /dtotal; ring.
Qed.

(** Each fault is small compared with the step: one part of it is the error
    of a derivative, the other a product of two small factors. *)
Lemma fault_small x (ε : posreal) :
  locally θ (fun θ' => Rabs (fault θ' x) <= ε * norm (minus θ' θ)).
Proof.
have [γ01 _] := sm.
have [K [K0 lK]] : exists K, 0 < K /\
    forall h, Rabs (dtotal x h) <= K * norm h.
  by case: (dtotal_linear x) => _ _ [K [K0 lK]]; exists K.
have each y : exists Ky, 0 < Ky /\ forall h, Rabs (dtotal y h) <= Ky * norm h.
  by case: (dtotal_linear y) => _ _ [Ky [Ky0 ly]]; exists Ky.
have n0 : 0 < INR #|State|.+1 by apply: lt_0_INR; apply/ltP.
have close y : locally θ (fun θ' =>
    Rabs ((P (π θ') x y - P (π θ) x y) * dtotal y (minus θ' θ)) <=
    ε / 2 / INR #|State|.+1 * norm (minus θ' θ)).
  have [Ky [Ky0 ly]] := each y.
  have δ0 : 0 < ε / 2 / INR #|State|.+1 / Ky.
    apply: Rdiv_lt_0_compat => //; apply: Rdiv_lt_0_compat => //.
    by have := cond_pos ε; lra.
  apply: filter_imp
    (continuous_near (gradient_continuous (P_gradient x y)) δ0) => θ' near.
  rewrite Rabs_mult.
  apply: Rle_trans (_ : ε / 2 / INR #|State|.+1 / Ky *
      (Ky * norm (minus θ' θ)) <= _).
    apply: Rmult_le_compat; [exact: Rabs_pos|exact: Rabs_pos| |exact: ly].
    exact: Rlt_le.
  by apply: Req_le; field; split; lra.
have ε2 : 0 < ε / 2 by have := cond_pos ε; lra.
have first := gradient_elim (change_gradient x) (mkposreal _ ε2).
apply: filter_imp (filter_and _ _ first (filter_finite close)) => θ' [one two].
apply: Rle_trans (Rabs_triang _ _) _.
have -> : ε * norm (minus θ' θ) =
    ε / 2 * norm (minus θ' θ) + ε / 2 * norm (minus θ' θ) by field.
apply: Rplus_le_compat; first exact: one.
rewrite Rabs_mult (Rabs_pos_eq γ); last by lra.
set h := norm (minus θ' θ) in two *.
have h0 : 0 <= h by apply: norm_ge_0.
have sum_small : Rabs (\sum_y (P (π θ') x y - P (π θ) x y) *
    dtotal y (minus θ' θ)) <= ε / 2 * h.
  apply: Rle_trans (sum_Rabs _) _; apply: Rle_trans (sum_le two) _.
  rewrite sum_const.
  have -> : INR #|State| * (ε / 2 / INR #|State|.+1 * h) =
      ε / 2 * h * (INR #|State| / INR #|State|.+1) by field; lra.
  have frac : INR #|State| / INR #|State|.+1 <= 1.
    by apply/Rle_div_l => //; rewrite S_INR; lra.
  rewrite -[X in _ <= X]Rmult_1_r; apply: Rmult_le_compat_l => //.
  by apply: Rmult_le_pos => //; lra.
apply: Rle_trans (_ : 1 * (ε / 2 * h) <= _); last by lra.
apply: Rmult_le_compat => //; [lra|exact: Rabs_pos|lra].
Qed.

Theorem total_gradient s :
  gradient_at (fun θ' => total γ (π θ') (f θ') s) θ (dtotal s).
Proof.
have [γ01 [N [β [β01 tl near]]]] := summable_nearby sm.
apply: gradient_intro (dtotal_linear s) _ => ε.
set B := INR N / (1 - β).
have B0 : 0 <= B by apply: B_ge0.
set n := INR #|State|.
have n0 : 0 <= n by apply: pos_INR.
have δ0 : 0 < ε / (B * n + 1).
  have := Rmult_le_pos _ _ B0 n0 => ?.
  by apply: Rdiv_lt_0_compat; [exact: cond_pos|lra].
have small : locally θ (fun θ' => forall x,
    Rabs (fault θ' x) <= ε / (B * n + 1) * norm (minus θ' θ)).
  by apply: filter_finite => x; apply: (fault_small x (mkposreal _ δ0)).
apply: filter_imp (filter_and _ _ near small) => θ' [tl' faults].
have := total_unique γ01 β01 tl' (error_solves γ01 β01 tl') s => ->.
apply: Rle_trans (total_bound γ01 β01 tl' _ _) _; rewrite -/B.
have size_small : size1 (fault θ') <= n * (ε / (B * n + 1) * norm (minus θ' θ)).
  apply: Rle_trans (sum_le faults) _; rewrite sum_const; exact: Rle_refl.
apply: Rle_trans (Rmult_le_compat_l _ _ _ B0 size_small) _.
have -> : B * (n * (ε / (B * n + 1) * norm (minus θ' θ))) =
    ε * norm (minus θ' θ) * (B * n / (B * n + 1)).
  by field; have := Rmult_le_pos _ _ B0 n0; lra.
rewrite -[X in _ <= X]Rmult_1_r; apply: Rmult_le_compat_l.
  by apply: Rmult_le_pos (norm_ge_0 _); apply/Rlt_le/cond_pos.
by have := Rmult_le_pos _ _ B0 n0 => ?; apply/Rle_div_l; lra.
Qed.

End TotalGradient.

(** ** The theorem

    [g γ s] is the sum of q(s,a) ∇π(a|s) over the actions: how the choice in
    [s] changes its own value, if nothing else changes. *)

Definition g γ s (h : V) := \sum_a q γ (π θ) s a * dπ a s h.

Lemma g_terminal γ s h : terminal M s -> g γ s h = 0.
Proof.
move=> st; apply: sum_zero => a.
by rewrite dπ_unavailable ?Rmult_0_r //; apply: terminal_unavailable.
Qed.

Lemma change_g γ x h : change γ (fun θ' => r (π θ')) dr x h = g γ x h.
Proof.
rewrite /change /dr /dP /g.
under [X in _ = X]eq_bigr do rewrite /q lookahead_expected Rmult_comm
  Rmult_plus_distr_l.
rewrite sum_plus; congr (_ + _).
under eq_bigr do rewrite sum_mulr.
rewrite sum_swap sum_mull; apply: eq_bigr => a _; rewrite !sum_mull.
by apply: eq_bigr => y _; rewrite /v; ring.
Qed.

Lemma value_gradient γ s : summable γ (π θ) ->
  gradient_at (fun θ' => v γ (π θ') s) θ
    (fun h => total γ (π θ) (fun x => g γ x h) s).
Proof.
move=> sm.
apply: gradient_same (total_gradient (f := fun θ' => r (π θ')) r_gradient sm s).
move=> h; apply: Series_ext => t; congr (_ * _); apply: E_ext => x.
exact: change_g.
Qed.

(** The gradient of the value obeys a Bellman equation, in which [g] stands
    where the reward stood. *)

(* Book: eq-value-gradient-bellman *)
Theorem value_gradient_bellman γ h : summable γ (π θ) ->
  let dv s := total γ (π θ) (fun x => g γ x h) s in
  forall s, dv s = g γ s h + γ * \sum_s' P (π θ) s s' * dv s'.
Proof.
by move=> [γ01 [N [β [β01 tl]]]] dv; apply: (total_solves γ01 β01 tl).
Qed.

Lemma action_value_gradient γ s a : summable γ (π θ) ->
  gradient_at (fun θ' => q γ (π θ') s a) θ (fun h =>
    γ * \sum_s' transition M s' s a *
      total γ (π θ) (fun x => g γ x h) s').
Proof.
by move=> sm; apply: lookahead_gradient => x; apply: value_gradient.
Qed.

(* Book: thm-policy-gradient, eq-policy-gradient *)
Theorem policy_gradient γ μ : summable γ (π θ) ->
  gradient_at (fun θ' => J γ (π θ') μ) θ (fun h =>
    \sum_s η γ (π θ) μ s * \sum_a q γ (π θ) s a * dπ a s h).
Proof.
move=> sm; apply: gradient_same; last first.
  by apply: gradient_sum => s; apply: (gradient_scal (μ s));
    apply: value_gradient sm.
move=> h /=; case: sm => γ01 [N [β [β01 tl]]].
rewrite (visitation_expectation γ01 β01 tl) // => s; exact: g_terminal.
Qed.

(** The same with the sum over time outside: a convergent series. *)
Theorem policy_gradient_series γ μ h : summable γ (π θ) ->
  is_series (fun t => γ ^ t * \sum_s Pr_from (π θ) μ t s * g γ s h)
    (\sum_s η γ (π θ) μ s * g γ s h).
Proof.
move=> [γ01 [N [β [β01 tl]]]].
rewrite -(visitation_expectation γ01 β01 tl) => [|s]; last exact: g_terminal.
apply: (is_series_ext (fun t =>
    \sum_s μ s * (γ ^ t * E (π θ) t (fun x => g γ x h) s))).
  move=> t; rewrite /Pr_from; under [in RHS]eq_bigr do rewrite sum_mulr.
  under [LHS]eq_bigr do rewrite /E !sum_mull.
  rewrite sum_swap [RHS]sum_mull; apply: eq_bigr => x _; rewrite sum_mull.
  by apply: eq_bigr => s _; real_ring.
apply: is_series_sum => s; apply: (is_series_scal_l (μ s)).
exact: total_series γ01 β01 tl _ _.
Qed.

(* Book: prop-baseline *)
Theorem baseline_changes_nothing γ μ b h :
  \sum_s η γ (π θ) μ s * (\sum_a (q γ (π θ) s a - b s) * dπ a s h) =
  \sum_s η γ (π θ) μ s * \sum_a q γ (π θ) s a * dπ a s h.
Proof.
apply: eq_bigr => s _; congr (_ * _).
under eq_bigr do rewrite /Rminus Rmult_plus_distr_r.
by rewrite sum_plus -sum_mull dπ_sum Rmult_0_r Rplus_0_r.
Qed.

(** The gradient is continuous where the derivatives of the policy are. *)
Lemma visitation_continuous γ μ s : summable γ (π θ) ->
  continuous (fun θ' => η γ (π θ') μ s) θ.
Proof.
move=> sm; have [γ01 [N [β [β01 tl near]]]] := summable_nearby sm.
pose at_s x := ind (~~ terminal M s) * ind (x == s).
have const x : gradient_at (fun _ : V => at_s x) θ (fun=> 0).
  exact: gradient_const.
have cont : continuous
    (fun θ' => \sum_s0 μ s0 * total γ (π θ') at_s s0) θ.
  apply: continuous_sum => s0; apply: (continuous_scal_r (μ s0)).
  exact: gradient_continuous
    (total_gradient (f := fun=> at_s) const sm s0).
apply: continuous_ext_loc cont.
apply: filter_imp near => θ' tl'.
by rewrite (visitation_series γ01 β01 tl' μ s).2.
Qed.

End Family.
Arguments visitation_continuous {V π θ dπ} _ {γ} μ s _.

(** ** The cases, and the condition at every θ *)

Section Corollaries.
Variable V : NormedModule R_AbsRing.
Implicit Types (π : V -> policy M) (θ : V).

Theorem policy_gradient_discounted γ π θ dπ μ :
  0 <= γ < 1 -> differentiable_policy π θ dπ ->
  gradient_at (fun θ' => J γ (π θ') μ) θ (fun h =>
    \sum_s η γ (π θ) μ s * \sum_a q γ (π θ) s a * dπ a s h).
Proof.
move=> γ01 π_dπ; exact: (policy_gradient π_dπ μ (summable_discounted _ γ01)).
Qed.

Theorem policy_gradient_undiscounted π θ dπ μ :
  surely_terminates (π θ) -> differentiable_policy π θ dπ ->
  gradient_at (fun θ' => J 1 (π θ') μ) θ (fun h =>
    \sum_s η 1 (π θ) μ s * \sum_a q 1 (π θ) s a * dπ a s h).
Proof.
move=> ends π_dπ; exact: (policy_gradient π_dπ μ (summable_ending ends)).
Qed.

(** If the probabilities are continuously differentiable, so is J. *)

(* Book: thm-policy-gradient *)
Theorem policy_gradient_continuous γ π θ dπ μ h :
  summable γ (π θ) -> (forall θ', differentiable_policy π θ' (dπ θ')) ->
  (forall a s, continuous (fun θ' => dπ θ' a s h) θ) ->
  continuous (fun θ' =>
    \sum_s η γ (π θ') μ s * \sum_a q γ (π θ') s a * dπ θ' a s h) θ.
Proof.
move=> sm π_dπ cont; apply: continuous_sum => s.
apply: (continuous_mult (fun θ' => η γ (π θ') μ s)).
  exact: (visitation_continuous (π_dπ θ) μ s sm).
apply: continuous_sum => a; apply: (continuous_mult (fun θ' => q γ (π θ') s a)).
  exact: gradient_continuous (action_value_gradient (π_dπ θ) s a sm).
exact: cont.
Qed.

End Corollaries.

(** In the words of calculus: the derivative along any direction, which for a
    unit vector of R^d is a partial derivative; and the derivative by a single
    real parameter. *)
Corollary policy_gradient_direction γ (V : NormedModule R_AbsRing)
    (π : V -> policy M) (θ : V) dπ μ h :
  summable γ (π θ) -> differentiable_policy π θ dπ ->
  is_derive (fun u : R => J γ (π (plus θ (scal u h))) μ) 0
    (\sum_s η γ (π θ) μ s * \sum_a q γ (π θ) s a * dπ a s h).
Proof.
by move=> sm π_dπ; exact: gradient_along h (policy_gradient π_dπ μ sm).
Qed.

Corollary policy_gradient_one_parameter γ (π : R -> policy M) (θ : R)
    (dπ : Action -> State -> R) μ :
  summable γ (π θ) -> (forall a s, is_derive (fun u => π u a s) θ (dπ a s)) ->
  is_derive (fun u => J γ (π u) μ) θ
    (\sum_s η γ (π θ) μ s * \sum_a q γ (π θ) s a * dπ a s).
Proof.
move=> sm π_dπ.
have π_dπ' : differentiable_policy π θ (fun a s (h : R) => h * dπ a s).
  exact: π_dπ.
apply: (gradient_same _ (policy_gradient π_dπ' μ sm)) => h.
rewrite /scal /= /mult /= sum_mull; apply: eq_bigr => s _.
rewrite !sum_mull; apply: eq_bigr => a _; ring.
Qed.

End PolicyGradient.
