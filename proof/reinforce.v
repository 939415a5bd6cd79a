(** * REINFORCE

    Trajectories, their probabilities, and the expectation of the estimator as
    a sum over every trajectory. An episode is looked at for [T] steps. Where
    it ends before, the rest is padding: a step at which no action is taken,
    as in the masked tensors of the package. *)

From PolicyGradient Require Export policy_gradient.

Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Open Scope R_scope.

(** ** Sums over lists of a fixed length *)

Section Lists.
Variable X : finType.

Lemma sum_nil (F : seq X -> R) : \sum_(τ : 0.-tuple X) F τ = F [::].
Proof.
rewrite (sum_only (x := [tuple])) // => τ.
by case/eqP; apply: val_inj; case: τ => -[].
Qed.

Lemma sum_cons T (F : seq X -> R) :
  \sum_(τ : T.+1.-tuple X) F τ = \sum_x \sum_(τ : T.-tuple X) F (x :: τ).
Proof.
rewrite pair_bigA /=.
rewrite (reindex (fun z : X * T.-tuple X => [tuple of z.1 :: z.2])) //=.
exists (fun τ : T.+1.-tuple X => (thead τ, [tuple of behead τ])).
  by move=> [x τ] _ /=; rewrite theadE; congr (_, _); apply: val_inj.
by move=> τ _ /=; rewrite [RHS]tuple_eta; apply: val_inj.
Qed.

End Lists.

(** ** Independent draws

    [N] draws from a finite set [Ω] with weights [w] are a function from the
    numbers below [N] to [Ω], and its weight is the product of the weights.
    [batch w N F] is the expectation of [F]. *)

Notation "\prod_ ( i : T ) F" := (\big[Rmult/R1]_(i : T) F%R) : R_scope.

Section Batch.
Variables (Ω : finType) (w : Ω -> R) (N : nat).
Hypothesis w1 : \sum_ω w ω = 1.
Implicit Types (X Y : Ω -> R) (draws : {ffun 'I_N -> Ω}).

Definition mean X := \sum_ω w ω * X ω.

Definition batch (F : {ffun 'I_N -> Ω} -> R) :=
  \sum_(draws : {ffun 'I_N -> Ω}) (\prod_(i : 'I_N) w (draws i)) * F draws.

Lemma batch_product (F : 'I_N -> Ω -> R) :
  batch (fun draws => \prod_(i : 'I_N) F i (draws i)) =
  \prod_(i : 'I_N) mean (F i).
Proof.
rewrite /mean bigA_distr_bigA /batch; apply: eq_bigr => draws _.
by rewrite -big_split.
Qed.

(** One of the draws, and two of them. *)
Lemma batch_one i X : batch (fun draws => X (draws i)) = mean X.
Proof.
pose F j ω := if j == i then X ω else 1.
have mean1 : mean (fun=> 1) = 1.
  by rewrite -[RHS]w1; apply: eq_bigr => ω _; rewrite Rmult_1_r.
transitivity (batch (fun draws => \prod_(j : 'I_N) F j (draws j))).
  apply: eq_bigr => draws _; congr (_ * _).
  rewrite (bigD1 i) //= /F eqxx big1 ?Rmult_1_r // => j /negbTE -> //.
rewrite batch_product (bigD1 i) //= /F eqxx big1 ?Rmult_1_r // => j /negbTE ->.
exact: mean1.
Qed.

Lemma batch_two i j X Y : i != j ->
  batch (fun draws => X (draws i) * Y (draws j)) = mean X * mean Y.
Proof.
move=> ij; pose F k ω := if k == i then X ω else if k == j then Y ω else 1.
have ji : (j == i) = false by rewrite eq_sym (negbTE ij).
have mean1 : mean (fun=> 1) = 1.
  by rewrite -[RHS]w1; apply: eq_bigr => ω _; rewrite Rmult_1_r.
transitivity (batch (fun draws => \prod_(k : 'I_N) F k (draws k))).
  apply: eq_bigr => draws _; congr (_ * _).
  rewrite (bigD1 i) //= (bigD1 j) ?ji //= /F !eqxx ji big1 ?Rmult_1_r //.
  by move=> k /andP[/negbTE -> /negbTE ->].
rewrite batch_product (bigD1 i) //= (bigD1 j) ?ji //= /F !eqxx ji.
by rewrite big1 ?Rmult_1_r // => k /andP[/negbTE -> /negbTE ->].
Qed.

Lemma batch_sum (T : finType) (F : T -> {ffun 'I_N -> Ω} -> R) :
  batch (fun draws => \sum_x F x draws) = \sum_x batch (F x).
Proof.
rewrite /batch sum_swap; apply: eq_bigr => draws _; exact: sum_mull.
Qed.

Lemma batch_scal c F : batch (fun draws => c * F draws) = c * batch F.
Proof. by rewrite /batch sum_mull; apply: eq_bigr => draws _; ring. Qed.

(** The mean of the draws has the mean of one draw for its expectation, and
    its covariance is that of one draw, divided by [N]. *)
Theorem batch_mean X : (0 < N)%N ->
  batch (fun draws => / INR N * \sum_(i < N) X (draws i)) = mean X.
Proof.
move=> N0; rewrite batch_scal batch_sum.
under eq_bigr do rewrite batch_one.
by rewrite sum_const card_ord; field; apply/not_0_INR/eqP; rewrite -lt0n.
Qed.

Theorem batch_covariance X Y : (0 < N)%N ->
  batch (fun draws =>
    (/ INR N * (\sum_(i < N) X (draws i)) - mean X) *
    (/ INR N * (\sum_(i < N) Y (draws i)) - mean Y)) =
  / INR N * mean (fun ω => (X ω - mean X) * (Y ω - mean Y)).
Proof.
move=> N0; have n0 : INR N <> 0 by apply/not_0_INR/eqP; rewrite -lt0n.
pose X' ω := X ω - mean X; pose Y' ω := Y ω - mean Y.
have centred Z : mean (fun ω => Z ω - mean Z) = 0.
  rewrite {1}/mean; under eq_bigr do rewrite Rmult_minus_distr_l.
  by rewrite sum_minus -sum_mulr w1 /mean; ring.
have shift Z draws : / INR N * (\sum_(i < N) Z (draws i)) - mean Z =
    / INR N * \sum_(i < N) (Z (draws i) - mean Z).
  by rewrite sum_minus sum_const card_ord Rmult_minus_distr_l -Rmult_assoc
    Rinv_l // Rmult_1_l.
transitivity (batch (fun draws =>
    / INR N * / INR N * \sum_(i < N) \sum_(j < N) X' (draws i) * Y' (draws j))).
  apply: eq_bigr => draws _; rewrite !shift; congr (_ * _).
  set x := \sum_(i < N) _; set y := \sum_(i < N) _.
  have -> : \sum_(i < N) \sum_(j < N) X' (draws i) * Y' (draws j) = x * y.
    rewrite /x sum_mulr; apply: eq_bigr => i _.
    by rewrite /y sum_mull.
  by ring.
rewrite batch_scal batch_sum.
have -> : \sum_(i < N) batch (fun draws =>
      \sum_(j < N) X' (draws i) * Y' (draws j)) =
    \sum_(i < N) mean (fun ω => X' ω * Y' ω).
  apply: eq_bigr => i _; rewrite batch_sum (sum_only (x := i)) => [|j ji].
    exact: (batch_one i (fun ω => X' ω * Y' ω)).
  by rewrite batch_two ?centred ?Rmult_0_l // eq_sym.
by rewrite sum_const card_ord Rmult_assoc -(Rmult_assoc (/ INR N) (INR N))
  Rinv_l // Rmult_1_l.
Qed.

End Batch.

Section Reinforce.
Context {State Action Reward : finType} {M : mdp State Action Reward}.
Implicit Types (s x y : State) (a : Action) (μ : State -> R) (γ : R).

(** ** Trajectories

    A step is an action, a reward and the next state; or [None], where the
    episode is over. *)

Definition step := option (Action * Reward * State)%type.
Implicit Types (z : step) (τ past : seq step).

Definition next s z : State := if z is Some (_, _, s') then s' else s.
Definition reward_of z : R := if z is Some (_, r', _) then reward M r' else 0.

(** The state in which one is after some steps. *)
Definition after s past : State := foldl next s past.

Definition step_Pr (π : policy M) s z : R :=
  if z is Some (a, r', s') then π a s * p M s' r' s a else ind (terminal M s).

(* Book: eq-trajectory-probability *)
Fixpoint Pr_trajectory (π : policy M) s τ : R :=
  if τ is z :: τ' then step_Pr π s z * Pr_trajectory π (next s z) τ' else 1.

(** The expectation of [X], a function of a trajectory, over all trajectories
    of [T] steps from [s]; and for a start as [μ] says. *)
Definition expectation (π : policy M) T s (X : seq step -> R) : R :=
  \sum_(τ : T.-tuple step) Pr_trajectory π s τ * X τ.

Definition expectation_from (π : policy M) μ T (X : State -> seq step -> R) :=
  \sum_s μ s * expectation π T s (X s).

Lemma expectation_0 π s X : expectation π 0 s X = X [::].
Proof.
rewrite /expectation (sum_nil (fun τ => Pr_trajectory π s τ * X τ)).
exact: Rmult_1_l.
Qed.

Lemma expectation_S π T s X : expectation π T.+1 s X =
  \sum_z step_Pr π s z * expectation π T (next s z) (fun τ => X (z :: τ)).
Proof.
rewrite /expectation (sum_cons T (fun τ => Pr_trajectory π s τ * X τ)).
apply: eq_bigr => z _; rewrite sum_mull; apply: eq_bigr => τ _.
exact: Rmult_assoc.
Qed.

Lemma expectation_ext π T s X Y :
  (forall τ, size τ = T -> X τ = Y τ) ->
    expectation π T s X = expectation π T s Y.
Proof. by move=> XY; apply: eq_bigr => τ _; rewrite XY // size_tuple. Qed.

Lemma expectation_plus π T s X Y :
  expectation π T s (fun τ => X τ + Y τ) =
    expectation π T s X + expectation π T s Y.
Proof. by rewrite /expectation -sum_plus; apply: eq_bigr => τ _; ring. Qed.

Lemma expectation_scal π T s c X :
  expectation π T s (fun τ => c * X τ) = c * expectation π T s X.
Proof. by rewrite /expectation sum_mull; apply: eq_bigr => τ _; ring. Qed.

(** The sum over the steps, as sums over their parts. *)
Lemma sum_step (F : step -> R) :
  \sum_z F z = F None + \sum_a \sum_s' \sum_r' F (Some (a, r', s')).
Proof.
have -> : \sum_a \sum_s' \sum_r' F (Some (a, r', s')) =
    \sum_(w : Action * Reward * State) F (Some w).
  under eq_bigr do rewrite sum_swap.
  rewrite (pair_bigA _ (fun a r' => \sum_s' F (Some (a, r', s')))) /=.
  rewrite (pair_bigA _ (fun ar s' => F (Some (ar.1, ar.2, s')))) /=.
  by apply: eq_bigr => -[[a r'] s'].
exact: sum_option.
Qed.

(** A step in which an action is taken, weighed with its probability. *)
Lemma sum_step_Pr (π : policy M) s (F : step -> R) :
  \sum_z step_Pr π s z * F z = ind (terminal M s) * F None +
  \sum_a π a s * \sum_s' \sum_r' p M s' r' s a * F (Some (a, r', s')).
Proof.
rewrite sum_step; congr (_ + _); apply: eq_bigr => a _; rewrite sum_mull.
apply: eq_bigr => s' _; rewrite sum_mull; apply: eq_bigr => r' _.
exact: Rmult_assoc.
Qed.

Lemma step_Pr_sum (π : policy M) s : \sum_z step_Pr π s z = 1.
Proof.
have -> : \sum_z step_Pr π s z = \sum_z step_Pr π s z * 1.
  by apply: eq_bigr => z _; rewrite Rmult_1_r.
rewrite (sum_step_Pr π s (fun=> 1)) Rmult_1_r.
have -> : \sum_a π a s * (\sum_s' \sum_r' p M s' r' s a * 1) = \sum_a π a s.
  apply: eq_bigr => a _; case: (boolP (available M s a)) => sa.
    under eq_bigr do under eq_bigr do rewrite Rmult_1_r.
    by rewrite p_sum1 // Rmult_1_r.
  by rewrite prob_support // Rmult_0_l.
by rewrite prob_sum /ind; case: (terminal M s) => /=; ring.
Qed.

(** The probabilities of all trajectories sum to 1. *)

(* Book: prop-trajectories-sum *)
Theorem trajectories_sum π T s (c : R) : expectation π T s (fun=> c) = c.
Proof.
elim: T s => [|T IH] s; first exact: expectation_0.
rewrite expectation_S; under eq_bigr do rewrite IH.
by rewrite -sum_mulr step_Pr_sum Rmult_1_l.
Qed.

(** The past makes no difference to the action: whatever came before, an action
    has the probability that the policy gives it in the present state. *)

Lemma Pr_trajectory_cat (π : policy M) s past τ :
  Pr_trajectory π s (past ++ τ) =
  Pr_trajectory π s past * Pr_trajectory π (after s past) τ.
Proof.
elim: past s => [|z past IH] s /=; first by rewrite Rmult_1_l.
by rewrite IH Rmult_assoc.
Qed.

(* Book, in part: eq-policy *)
Theorem policy_forgets (π : policy M) s past a :
  \sum_s' \sum_r' Pr_trajectory π s (past ++ [:: Some (a, r', s')]) =
  Pr_trajectory π s past * π a (after s past).
Proof.
have -> : \sum_s' \sum_r' Pr_trajectory π s (past ++ [:: Some (a, r', s')]) =
    \sum_s' \sum_r' Pr_trajectory π s past * π a (after s past) *
      p M s' r' (after s past) a.
  apply: eq_bigr => s' _; apply: eq_bigr => r' _.
  by rewrite Pr_trajectory_cat /= Rmult_1_r Rmult_assoc.
under eq_bigr do rewrite -sum_mull.
rewrite -sum_mull; case: (boolP (available M (after s past) a)) => sa.
  by rewrite p_sum1 // Rmult_1_r.
by rewrite prob_support // Rmult_0_r !Rmult_0_l.
Qed.

(** ** The return *)

(** The return of what follows: what comes next, plus γ times the return of
    what follows that. G_t is the return of the trajectory without its first
    t steps. *)

(* Book: eq-return, eq-return-recursion *)
Fixpoint G γ τ : R :=
  if τ is z :: τ' then reward_of z + γ * G γ τ' else 0.

Lemma G_sum γ τ : G γ τ = \sum_(k < size τ) γ ^ k * reward_of (nth None τ k).
Proof.
elim: τ => [|z τ IH]; first by rewrite big_ord0.
rewrite sum_recl pow_O Rmult_1_l -[LHS]/(reward_of z + γ * G γ τ).
rewrite IH sum_mull; congr (_ + _).
by apply: eq_bigr => k _; rewrite lift0 pow_step Rmult_assoc.
Qed.

(** The expectation of the return over all trajectories is the value of the
    recursion. *)
Theorem expected_return γ π T s :
  expectation π T s (G γ) = v_left γ π T s.
Proof.
elim: T s => [|T IH] s; first exact: expectation_0.
rewrite expectation_S.
under eq_bigr do rewrite expectation_plus expectation_scal trajectories_sum IH.
rewrite (sum_step_Pr π s (fun z => reward_of z + γ * v_left γ π T (next s z))).
have -> : ind (terminal M s) * (reward_of None + γ * v_left γ π T s) = 0.
  case: (boolP (terminal M s)) => st; last by rewrite Rmult_0_l.
  suff -> : v_left γ π T s = 0 by rewrite /=; ring.
  by case: (T) => //= n; apply: sum_zero => a;
    rewrite prob_terminal // Rmult_0_l.
exact: Rplus_0_l.
Qed.

(** ** The estimator *)

Section Estimator.
Variables (V : NormedModule R_AbsRing) (π : V -> policy M) (θ : V).
Variable dπ : Action -> State -> V -> R.
Hypothesis π_dπ : differentiable_policy π θ dπ.

(** The score, the gradient of ln π(a|s). *)
Definition score s a (h : V) : R := dπ a s h / π θ a s.

(* Book: def-score, eq-score *)
Theorem score_is_gradient s a : 0 < π θ a s ->
  gradient_at (fun θ' => ln (π θ' a s)) θ (score s a).
Proof.
by move=> pos; apply: gradient_chain (is_derive_ln _ pos) (π_dπ a s).
Qed.

Lemma prob_score s a h : π θ a s * score s a h = dπ a s h.
Proof.
case: (Req_dec (π θ a s) 0) => [π0|]; last by move=> ?; rewrite /score; field.
by rewrite π0 (dπ_zero π_dπ h π0) Rmult_0_l.
Qed.

(* Book: prop-score-zero-mean, eq-score-zero-mean *)
Theorem score_zero_mean s h : \sum_a π θ a s * score s a h = 0.
Proof. by under eq_bigr do rewrite prob_score; apply: dπ_sum. Qed.

(** The score of a step; 0 where no action is taken. *)
Definition score_of s z (h : V) : R :=
  if z is Some (a, _, _) then score s a h else 0.

(** The sum over time of (c γ^t G_t - B_t) times the score of A_t, where B_t is
    any function of what happened before A_t is chosen. *)
Definition estimator γ c (B : seq step -> R) s τ (h : V) : R :=
  \sum_(t < size τ) (c * γ ^ t * G γ (drop t τ) - B (take t τ)) *
    score_of (after s (take t τ)) (nth None τ t) h.

Lemma estimator_cons γ c B s z τ h : estimator γ c B s (z :: τ) h =
  (c * G γ (z :: τ) - B [::]) * score_of s z h +
  estimator γ (c * γ) (fun past => B (z :: past)) (next s z) τ h.
Proof.
rewrite /estimator sum_recl [ord0 : nat]/= pow_O Rmult_1_r; congr (_ + _).
by apply: eq_bigr => t _; rewrite lift0 pow_step /= -!Rmult_assoc.
Qed.

(** Its expectation, by induction over the number of steps. The first step
    contributes the derivative of the policy times the value of what follows,
    and the baseline drops out, because the derivatives sum to 0. *)
Lemma estimator_expectation γ c B T s h :
  expectation (π θ) T s (fun τ => estimator γ c B s τ h) =
  c * dv_left π θ dπ γ T s h.
Proof.
elim: T c B s => [|T IH] c B s.
  by rewrite expectation_0 /estimator big_ord0 /= Rmult_0_r.
rewrite expectation_S.
pose first z := (c * (reward_of z + γ * v_left γ (π θ) T (next s z)) - B [::]) *
  score_of s z h.
have -> : \sum_z step_Pr (π θ) s z * expectation (π θ) T (next s z)
      (fun τ => estimator γ c B s (z :: τ) h) =
    \sum_z step_Pr (π θ) s z *
      (first z + c * γ * dv_left π θ dπ γ T (next s z) h).
  apply: eq_bigr => z _; congr (_ * _).
  rewrite (expectation_ext (π θ) (next s z) (Y := fun τ =>
      ((c * score_of s z h) * γ * G γ τ +
       (c * reward_of z - B [::]) * score_of s z h) +
      estimator γ (c * γ) (fun past => B (z :: past)) (next s z) τ h)).
    rewrite !expectation_plus expectation_scal trajectories_sum IH.
    by rewrite expected_return /first; ring.
  move=> τ _; rewrite estimator_cons.
  rewrite -[G γ (z :: τ)]/(reward_of z + γ * G γ τ).
  by congr (_ + _); ring.
rewrite [LHS](sum_step_Pr (π θ) s (fun z =>
  first z + c * γ * dv_left π θ dπ γ T (next s z) h)).
have end_ : terminal M s -> dv_left π θ dπ γ T s h = 0.
  case: T {IH first} => // T st; rewrite dv_left_S !sum_zero => [|x|a].
  - by ring.
  - by rewrite P_terminal // Rmult_0_l.
  - by rewrite (dπ_unavailable π_dπ) ?Rmult_0_r // terminal_unavailable.
have -> : ind (terminal M s) *
    (first None + c * γ * dv_left π θ dπ γ T (next s None) h) = 0.
  rewrite /first /=; case: (boolP (terminal M s)) => [st|_];
    last by rewrite /ind; ring.
  by rewrite end_ //; ring.
rewrite Rplus_0_l dv_left_S.
have -> : c * ((\sum_a lookahead M γ (v_left γ (π θ) T) s a * dπ a s h) +
      γ * \sum_x P (π θ) s x * dv_left π θ dπ γ T x h) =
    (\sum_a (c * lookahead M γ (v_left γ (π θ) T) s a - B [::]) * dπ a s h) +
    c * γ * \sum_x P (π θ) s x * dv_left π θ dπ γ T x h.
  under [in RHS]eq_bigr do rewrite /Rminus Rmult_plus_distr_r Rmult_assoc.
  rewrite sum_plus -!sum_mull (dπ_sum π_dπ); ring.
rewrite -P_average sum_mull -sum_plus; apply: eq_bigr => a _.
case: (boolP (available M s a)) => sa; last first.
  by rewrite prob_support // (dπ_unavailable π_dπ) //; ring.
rewrite -(prob_score s a h).
have -> : \sum_s' \sum_r' p M s' r' s a * (first (Some (a, r', s')) +
      c * γ * dv_left π θ dπ γ T (next s (Some (a, r', s'))) h) =
    (c * lookahead M γ (v_left γ (π θ) T) s a - B [::]) * score s a h +
    c * γ * \sum_s' transition M s' s a * dv_left π θ dπ γ T s' h.
  have -> : B [::] = \sum_s' \sum_r' p M s' r' s a * B [::].
    under eq_bigr do rewrite -sum_mulr; rewrite -sum_mulr p_sum1 //; ring.
  rewrite /lookahead sum_mull -sum_minus sum_mulr sum_mull -sum_plus.
  apply: eq_bigr => s' _; rewrite sum_mull -sum_minus sum_mulr.
  rewrite /transition sum_mulr sum_mull -sum_plus.
  by apply: eq_bigr => r' _; rewrite /first /=; ring.
by ring.
Qed.

(** ** REINFORCE is unbiased

    [b s past] is the baseline at a time before which [past] happened, from the
    start [s]; it may depend on all of that, and so on the state and the time.
    It may not depend on the action, or on anything that comes after it. *)

(* Book: def-reinforce, eq-reinforce *)
Definition reinforce γ (b : State -> seq step -> R) s τ (h : V) : R :=
  \sum_(t < size τ) γ ^ t * (G γ (drop t τ) - b s (take t τ)) *
    score_of (after s (take t τ)) (nth None τ t) h.

Lemma reinforce_expectation γ b T s h :
  expectation (π θ) T s (fun τ => reinforce γ b s τ h) =
  dv_left π θ dπ γ T s h.
Proof.
rewrite -[RHS]Rmult_1_l.
rewrite -(estimator_expectation γ 1 (fun past => γ ^ size past * b s past)).
apply: expectation_ext => τ _; apply: eq_bigr => t _; congr (_ * _).
by rewrite size_takel ?(ltnW (ltn_ord t)) //; ring.
Qed.

(* Book: eq-policy-gradient-cut *)
(* Book, in part: prop-reinforce-baseline *)
Theorem reinforce_unbiased γ b μ T :
  gradient_at (fun θ' => J_cut γ (π θ') μ T) θ (fun h =>
    expectation_from (π θ) μ T (fun s τ => reinforce γ b s τ h)).
Proof.
apply: gradient_same; last first.
  apply: gradient_sum => s; apply: (gradient_scal (μ s)).
  by rewrite /v_at subn0; apply: (v_left_gradient π_dπ).
move=> h; apply: eq_bigr => s _; congr (_ * _).
by rewrite reinforce_expectation.
Qed.

(** The mean over [N] independent episodes, which is the estimator as the book
    defines it. An episode is a start and its steps. *)
Definition episode_weight μ T (e : State * T.-tuple step) : R :=
  μ e.1 * Pr_trajectory (π θ) e.1 e.2.

Lemma episode_weight_sum μ T : \sum_s μ s = 1 ->
  \sum_(e : State * T.-tuple step) episode_weight μ e = 1.
Proof.
move=> <-.
rewrite -(pair_bigA _ (fun s (τ : T.-tuple step) =>
  μ s * Pr_trajectory (π θ) s τ)) /=.
apply: eq_bigr => s _; rewrite -sum_mull -[RHS]Rmult_1_r; congr (_ * _).
rewrite -[RHS](trajectories_sum (π θ) T s 1).
by apply: eq_bigr => τ _; rewrite Rmult_1_r.
Qed.

Lemma episode_mean μ T (X : State -> seq step -> R) :
  mean (episode_weight (T := T) μ) (fun e => X e.1 e.2) =
  expectation_from (π θ) μ T X.
Proof.
rewrite /mean /expectation_from.
rewrite -(pair_bigA _ (fun s (τ : T.-tuple step) =>
  μ s * Pr_trajectory (π θ) s τ * X s τ)) /=.
apply: eq_bigr => s _; rewrite sum_mull.
by apply: eq_bigr => τ _; rewrite Rmult_assoc.
Qed.

(* Book, in part: thm-reinforce-unbiased *)
Theorem reinforce_batch_unbiased γ b μ T N :
  (0 < N)%N -> \sum_s μ s = 1 ->
  gradient_at (fun θ' => J_cut γ (π θ') μ T) θ (fun h =>
    batch (episode_weight (T := T) μ) (fun draws : {ffun 'I_N -> _} =>
      / INR N * \sum_(i < N)
        reinforce γ b (draws i).1 (draws i).2 h)).
Proof.
move=> N0 μ1; apply: gradient_same (reinforce_unbiased γ b μ T) => h.
have w1 := episode_weight_sum T μ1.
rewrite (batch_mean w1 (fun e => reinforce γ b e.1 e.2 h) N0).
by rewrite (episode_mean μ T (fun s τ => reinforce γ b s τ h)).
Qed.

(** The covariance of two of its components is that of one episode, divided by
    the number of episodes. *)

(* Book, in part: thm-reinforce-unbiased *)
Theorem reinforce_batch_covariance γ b μ T N h k :
  (0 < N)%N -> \sum_s μ s = 1 ->
  let one := mean (episode_weight (T := T) μ) in
  let X l (e : State * T.-tuple step) := reinforce γ b e.1 e.2 l in
  batch (episode_weight (T := T) μ) (fun draws : {ffun 'I_N -> _} =>
    (/ INR N * (\sum_(i < N) X h (draws i)) - one (X h)) *
    (/ INR N * (\sum_(i < N) X k (draws i)) - one (X k))) =
  / INR N * one (fun e => (X h e - one (X h)) * (X k e - one (X k))).
Proof.
by move=> N0 μ1; apply: (batch_covariance (episode_weight_sum T μ1)).
Qed.

(** A baseline that is a function of the state. *)
Corollary reinforce_unbiased_state_baseline γ (b : State -> R) μ T :
  gradient_at (fun θ' => J_cut γ (π θ') μ T) θ (fun h =>
    expectation_from (π θ) μ T (fun s τ =>
      \sum_(t < size τ) γ ^ t *
        (G γ (drop t τ) - b (after s (take t τ))) *
        score_of (after s (take t τ)) (nth None τ t) h)).
Proof. exact: (reinforce_unbiased γ (fun s past => b (after s past))). Qed.

(** The whole return in place of the return to go. The rewards that were paid
    before A_t are a baseline: they are known before A_t is chosen. *)

(* Book: eq-return-split *)
Lemma return_split γ τ t : (t <= size τ)%N ->
  G γ τ = G γ (take t τ) + γ ^ t * G γ (drop t τ).
Proof.
elim: τ t => [|z τ IH] [|t] // tτ.
- by rewrite take0 drop0 /=; ring.
- by rewrite take0 drop0 /=; ring.
rewrite -[LHS]/(reward_of z + γ * G γ τ) (IH t tτ) pow_step.
rewrite -[RHS]/(reward_of z + γ * G γ (take t τ) + γ * γ ^ t * G γ (drop t τ)).
ring.
Qed.

(* Book: eq-full-return-gradient *)
Theorem full_return_unbiased γ μ T :
  gradient_at (fun θ' => J_cut γ (π θ') μ T) θ (fun h =>
    expectation_from (π θ) μ T (fun s τ => G γ τ *
      \sum_(t < size τ) score_of (after s (take t τ)) (nth None τ t) h)).
Proof.
apply: gradient_same (reinforce_unbiased γ (fun _ _ => 0) μ T) => h.
apply: eq_bigr => s _; congr (_ * _); rewrite reinforce_expectation.
rewrite -[LHS]Rmult_1_l -(estimator_expectation γ 1 (fun past => - G γ past)).
apply: expectation_ext => τ _; rewrite sum_mull; apply: eq_bigr => t _.
by congr (_ * _); rewrite (return_split γ (ltnW (ltn_ord t))); ring.
Qed.

(** ** Without a bound on the number of steps

    As the horizon grows, the expectation of the estimator tends to the
    gradient of J. *)

Lemma dv_left_limit γ s h : summable γ (π θ) ->
  is_lim_seq (fun T => dv_left π θ dπ γ T s h)
    (total γ (π θ) (fun x => g π θ dπ γ x h) s).
Proof.
move=> sm; have [γ01 [N [β [β01 tl]]]] := sm.
set D := total γ (π θ) (fun x => g π θ dπ γ x h).
pose gap n x := g π θ dπ γ x h -
  \sum_a lookahead M γ (v_left γ (π θ) n) x a * dπ a x h.
have gap_lim x : is_lim_seq (fun n => Rabs (gap n x)) 0.
  rewrite -Rabs_R0; apply: (is_lim_seq_abs (fun n => gap n x) 0).
  rewrite -(Rminus_diag_eq (g π θ dπ γ x h) _ erefl).
  apply: is_lim_seq_minus'; first exact: is_lim_seq_const.
  apply: is_lim_seq_sum => a.
  apply: (is_lim_seq_scal_r _ (dπ a x h) (q γ (π θ) x a)).
  apply: (is_lim_seq_ext (fun n => expected_reward M x a +
      γ * \sum_y transition M y x a * v_left γ (π θ) n y)).
    by move=> n; rewrite lookahead_expected.
  rewrite /q lookahead_expected; apply: is_lim_seq_plus'.
    exact: is_lim_seq_const.
  apply: (is_lim_seq_scal_l _ γ (\sum_y transition M y x a * v γ (π θ) y)).
  apply: is_lim_seq_sum => y.
  apply: (is_lim_seq_scal_l _ (transition M y x a) (v γ (π θ) y)).
  exact: values_exist.
have size_lim : is_lim_seq (fun n => size1 (gap n)) 0.
  have -> : 0 = \sum_(x : State) 0 by rewrite sum_zero.
  exact: is_lim_seq_sum.
have conv := convolution_vanishes
  (fun t => Rmult_le_pos _ _ (proj1 (pow_le1 t γ01)) (alive_ge0 (π θ) t s))
  (proj1 (weight_series γ01 β01 tl s)) (fun n => size1_ge0 (gap n)) size_lim.
have diff n : D s - dv_left π θ dπ γ n s h =
    (\sum_(t < n) γ ^ t * E (π θ) t (gap (n - t.+1)%N) s) +
    γ ^ n * E (π θ) n D s.
  rewrite {1}/D (unroll n s (total_solves γ01 β01 tl _)) -/D dv_left_sum.
  have -> : \sum_(t < n) γ ^ t * E (π θ) t (gap (n - t.+1)%N) s =
      (\sum_(t < n) γ ^ t * E (π θ) t (fun x => g π θ dπ γ x h) s) -
      \sum_(t < n) γ ^ t * E (π θ) t (fun x =>
        \sum_a lookahead M γ (v_left γ (π θ) (n - t.+1)) x a * dπ a x h) s.
    rewrite -sum_minus; apply: eq_bigr => t _; rewrite -Rmult_minus_distr_l.
    congr (_ * _); rewrite /E -sum_minus; apply: eq_bigr => x _.
    by rewrite /gap; ring.
  by ring.
apply: (is_lim_seq_ext (fun n => D s -
    ((\sum_(t < n) γ ^ t * E (π θ) t (gap (n - t.+1)%N) s) +
    γ ^ n * E (π θ) n D s))) => [n|]; first by rewrite -diff; ring.
rewrite -{2}[D s]Rminus_0_r; apply: is_lim_seq_minus'.
  exact: is_lim_seq_const.
rewrite -(Rplus_0_r 0); apply: is_lim_seq_plus'; last first.
  exact: remainder_vanishes γ01 β01 tl D s.
apply/is_lim_seq_abs_0.
apply: (is_lim_seq_le_le (fun=> 0) _ _ _ _ (is_lim_seq_const 0) conv) => n.
split; first exact: Rabs_pos.
apply: Rle_trans (sum_Rabs _) _; apply: sum_le => t.
exact: term_le.
Qed.

(* Book: thm-policy-gradient, eq-policy-gradient-trajectories *)
Theorem reinforce_limit γ b μ : summable γ (π θ) -> exists D,
  gradient_at (fun θ' => J γ (π θ') μ) θ D /\
  forall h, is_lim_seq (fun T =>
    expectation_from (π θ) μ T (fun s τ => reinforce γ b s τ h)) (D h).
Proof.
move=> sm; exists (fun h => \sum_s η γ (π θ) μ s *
  \sum_a q γ (π θ) s a * dπ a s h).
split; first exact: policy_gradient.
move=> h; have [γ01 [N [β [β01 tl]]]] := sm.
rewrite -(visitation_expectation γ01 β01 tl μ (f := fun s => g π θ dπ γ s h)).
  apply: is_lim_seq_sum => s; apply: (is_lim_seq_scal_l _ (μ s)
    (total γ (π θ) (fun x => g π θ dπ γ x h) s)).
  apply: (is_lim_seq_ext (fun T => dv_left π θ dπ γ T s h)) => [T|].
    by rewrite reinforce_expectation.
  exact: dv_left_limit.
by move=> s; apply: g_terminal.
Qed.

(** If no episode has more than [T] steps, nothing is cut off, and the
    expectation over the trajectories of T steps is the gradient of J itself,
    not only in the limit. *)

Lemma ended_values γ T n s h : (T <= n)%N -> alive (π θ) T.+1 s = 0 ->
  v_left γ (π θ) n s = v_left γ (π θ) T s /\
  dv_left π θ dπ γ n s h = dv_left π θ dπ γ T s h.
Proof.
elim: T n s => [|T IH] [|n] // s Tn over.
  have st : terminal M s.
    move: over; rewrite alive_live /alive.
    under eq_bigr do rewrite Pr_0 Rmult_comm.
    by rewrite sum_ind /ind; case: (terminal M s) => //= ?; lra.
  rewrite v_left_S r_terminal // dv_left_S !sum_zero => [|x|a|x].
  - by split; rewrite /=; ring.
  - by rewrite P_terminal // Rmult_0_l.
  - by rewrite (dπ_unavailable π_dπ) ?Rmult_0_r // terminal_unavailable.
  - by rewrite P_terminal // Rmult_0_l.
have next_over x : P (π θ) s x = 0 \/ alive (π θ) T.+1 x = 0.
  have terms := @term_le_sum _ (fun x => P (π θ) s x * alive (π θ) T.+1 x) x
    (fun x => Rmult_le_pos _ _ (P_ge0 _ _ _) (alive_ge0 _ _ _)).
  apply: Rmult_integral; move: terms; rewrite -alive_S over => le0.
  by apply: Rle_antisym => //; apply: Rmult_le_pos;
    [exact: P_ge0|exact: alive_ge0].
have same (w w' : State -> R) :
    (forall x, alive (π θ) T.+1 x = 0 -> w x = w' x) ->
    \sum_x P (π θ) s x * w x = \sum_x P (π θ) s x * w' x.
  move=> ww; apply: eq_bigr => x _.
  by case: (next_over x) => [->|/ww ->] //; rewrite !Rmult_0_l.
split.
  by rewrite !v_left_S (same _ (v_left γ (π θ) T)) // => x /(IH n x Tn) [].
rewrite !dv_left_S (same _ (fun x => dv_left π θ dπ γ T x h)); last first.
  by move=> x /(IH n x Tn) [].
congr (_ + _); apply: eq_bigr => a _.
case: (boolP (available M s a)) => sa; last first.
  by rewrite (dπ_unavailable π_dπ) // !Rmult_0_r.
case: (Req_dec (π θ a s) 0) => [/(dπ_zero π_dπ h) -> |π0].
  by rewrite !Rmult_0_r.
rewrite !lookahead_expected; congr ((_ + _ * _) * _); apply: eq_bigr => x _.
case: (next_over x) => [Px0|/(IH n x Tn) [-> _] //].
suff -> : transition M x s a = 0 by rewrite !Rmult_0_l.
have trans0 b : 0 <= π θ b s * transition M x s b.
  case: (boolP (available M s b)) => sb;
    last by rewrite prob_support // Rmult_0_l; lra.
  by apply: Rmult_le_pos (prob_ge0 _ _ _) _; apply: sum_ge0 => r'; apply: p_ge0.
have := @term_le_sum _ (fun b => π θ b s * transition M x s b) a trans0.
rewrite -/(P (π θ) s x) Px0 => le0.
by case: (Rmult_integral _ _ (Rle_antisym _ _ le0 (trans0 a))).
Qed.

(* Book, in part: thm-reinforce-unbiased *)
Theorem reinforce_unbiased_to_the_end γ b μ T : summable γ (π θ) ->
  (forall s, μ s <> 0 -> alive (π θ) T.+1 s = 0) ->
  gradient_at (fun θ' => J γ (π θ') μ) θ (fun h =>
    expectation_from (π θ) μ T (fun s τ => reinforce γ b s τ h)).
Proof.
move=> sm over; apply: gradient_same; last first.
  apply: gradient_sum => s; apply: (gradient_scal (μ s)).
  exact: (value_gradient π_dπ s sm).
move=> h; apply: eq_bigr => s _.
case: (Req_dec (μ s) 0) => [->|/over s_over]; first by rewrite !Rmult_0_l.
congr (_ * _); rewrite reinforce_expectation.
apply: (@limit_unique (fun n => dv_left π θ dπ γ (n + T) s h)).
  apply/(is_lim_seq_incr_n (fun n => dv_left π θ dπ γ n s h) T).
  exact: dv_left_limit.
apply: (is_lim_seq_ext (fun=> dv_left π θ dπ γ T s h)) => [n|].
  by case: (ended_values γ h (leq_addl n T) s_over).
exact: is_lim_seq_const.
Qed.

End Estimator.
End Reinforce.
