(** * Finite Markov decision processes

    The world, the policy, and what follows from the two without any limit:
    the probabilities of states, the values with a fixed number of steps left,
    and their recursions. Every sum in this file is finite, and [γ] is any
    real number. *)

From PolicyGradient Require Export sums.

Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Open Scope R_scope.

(** ** The world and the policy

    States, actions and rewards are finite types. [reward] is the number that
    a reward stands for, so that the set of rewards is a finite set of
    numbers. [available s a] says that [a] is in 𝒜(s). A state is terminal
    where no action is available; the next state of a transition may be
    terminal. Where an action is not available the dynamics may be anything:
    nothing will depend on it. *)

(* Book: def-mdp, eq-dynamics, eq-dynamics-normalised *)
Record mdp (State Action Reward : finType) := Mdp {
  available : State -> Action -> bool;
  reward : Reward -> R;
  p : State -> Reward -> State -> Action -> R;
  p_ge0 : forall s' r s a, available s a -> 0 <= p s' r s a;
  p_sum1 : forall s a, available s a -> \sum_s' \sum_r p s' r s a = 1
}.

Definition terminal (State Action Reward : finType)
    (M : mdp State Action Reward) (s : State) : bool :=
  ~~ [exists a, available M s a].

(** A policy is a table. In a state that is not terminal it is a distribution
    over the available actions; all other entries are 0. So a sum over all
    actions is a sum over 𝒜(s), and in a terminal state it is 0. An entry knows
    the state and not the past; [policy_forgets] says what this means for the
    probabilities of trajectories. *)

(* Book: eq-policy *)
Record policy (State Action Reward : finType) (M : mdp State Action Reward) :=
  Policy {
    prob :> Action -> State -> R;
    prob_ge0 : forall a s, 0 <= prob a s;
    prob_support : forall a s, ~~ available M s a -> prob a s = 0;
    prob_sum1 : forall s, ~~ terminal M s -> \sum_a prob a s = 1
  }.

Section Dynamics.
Context {State Action Reward : finType} (M : mdp State Action Reward).
Implicit Types (π : policy M) (s x y : State) (a : Action) (f : State -> R).

Lemma terminal_unavailable s a : terminal M s -> ~~ available M s a.
Proof. by rewrite /terminal negb_exists => /forallP /(_ a). Qed.

Lemma available_live s a : available M s a -> ~~ terminal M s.
Proof. by move=> sa; apply: contraL sa; apply: terminal_unavailable. Qed.

Lemma prob_terminal π a s : terminal M s -> π a s = 0.
Proof. by move=> st; apply/prob_support/terminal_unavailable. Qed.

Lemma prob_sum π s : \sum_a π a s = ind (~~ terminal M s).
Proof.
case: (boolP (terminal M s)) => [st|]; last exact: prob_sum1.
by apply: sum_zero => a; apply: prob_terminal.
Qed.

Lemma prob_le1 π a s : π a s <= 1.
Proof.
have := @term_le_sum _ (fun b => π b s) a (fun b => prob_ge0 π b s).
by rewrite prob_sum /ind; case: (~~ _) => /= ?; lra.
Qed.

(** ** What follows from the dynamics *)

(* Book: eq-transitions *)
Definition transition (s' : State) s a := \sum_r p M s' r s a.

(* Book: eq-expected-rewards *)
Definition expected_reward s a :=
  \sum_s' \sum_r p M s' r s a * reward M r.

(** The matrix [P] and the vector [r] of a policy. Rows of terminal states
    are 0, because the policy is 0 there. *)
Definition P π s s' := \sum_a π a s * transition s' s a.
Definition r π s := \sum_a π a s * expected_reward s a.

Lemma P_ge0 π s s' : 0 <= P π s s'.
Proof.
apply: sum_ge0 => a; case: (boolP (available M s a)) => sa.
  apply: Rmult_le_pos; first exact: prob_ge0.
  by apply: sum_ge0 => r'; apply: p_ge0.
by rewrite prob_support // Rmult_0_l; lra.
Qed.

Lemma P_row π s : \sum_s' P π s s' = ind (~~ terminal M s).
Proof.
rewrite /P sum_swap -(prob_sum π); apply: eq_bigr => a _.
rewrite -sum_mull; case: (boolP (available M s a)) => sa.
  by rewrite /transition p_sum1 // Rmult_1_r.
by rewrite prob_support // Rmult_0_l.
Qed.

Lemma P_terminal π s s' : terminal M s -> P π s s' = 0.
Proof.
by move=> st; apply: sum_zero => a; rewrite prob_terminal // Rmult_0_l.
Qed.

Lemma r_terminal π s : terminal M s -> r π s = 0.
Proof.
by move=> st; apply: sum_zero => a; rewrite prob_terminal // Rmult_0_l.
Qed.

(** ** The state after t steps

    [Pr π t s s'] is the probability that an episode from [s] makes [t] steps
    and is then in [s']; it is an entry of the t-th power of [P].
    [alive π t s] is the probability that an episode from [s] has at least
    [t] steps. *)

Fixpoint Pr π (t : nat) s s' : R :=
  if t is t'.+1 then \sum_x P π s x * Pr π t' x s' else ind (s' == s).

Definition alive π t s := \sum_s' Pr π t s s'.

Lemma Pr_0 π s s' : Pr π 0 s s' = ind (s' == s). Proof. by []. Qed.

Lemma Pr_S π t s s' : Pr π t.+1 s s' = \sum_x P π s x * Pr π t x s'.
Proof. by []. Qed.

(** The same power, with the last step split off instead of the first. *)
Lemma Pr_Sr π t s s' : Pr π t.+1 s s' = \sum_x Pr π t s x * P π x s'.
Proof.
elim: t s => [|t IH] s.
  rewrite Pr_S; under [RHS]eq_bigr do rewrite Pr_0; rewrite sum_ind.
  under eq_bigr do rewrite Pr_0 /ind eq_sym Rmult_comm -/(ind _).
  exact: sum_ind.
rewrite Pr_S; under eq_bigr do rewrite IH sum_mull.
rewrite sum_swap; apply: eq_bigr => y _.
rewrite Pr_S sum_mulr; apply: eq_bigr => x _; ring.
Qed.

Lemma Pr_ge0 π t s s' : 0 <= Pr π t s s'.
Proof.
elim: t s => [|t IH] s; first by rewrite Pr_0 /ind; case: (s' == s); lra.
by rewrite Pr_S; apply: sum_ge0 => x; apply: Rmult_le_pos; [exact: P_ge0|].
Qed.

Lemma alive_0 π s : alive π 0 s = 1.
Proof.
rewrite /alive (sum_only (x := s)) => [|y /negbTE]; first by rewrite Pr_0 eqxx.
by rewrite Pr_0 => ->.
Qed.

Lemma alive_S π t s : alive π t.+1 s = \sum_x P π s x * alive π t x.
Proof.
rewrite /alive; under eq_bigr do rewrite Pr_S.
by rewrite sum_swap; apply: eq_bigr => x _; rewrite sum_mull.
Qed.

(** To have at least t + 1 steps is to be in a state that is not terminal
    after t of them: [alive π t.+1] is Pr(T > t). *)
Lemma alive_live π t s :
  alive π t.+1 s = \sum_s' ind (~~ terminal M s') * Pr π t s s'.
Proof.
rewrite /alive; under eq_bigr do rewrite Pr_Sr.
rewrite sum_swap; apply: eq_bigr => x _.
by rewrite -sum_mull P_row Rmult_comm.
Qed.

Lemma alive_ge0 π t s : 0 <= alive π t s.
Proof. by apply: sum_ge0 => x; apply: Pr_ge0. Qed.

Lemma alive_decr π t s : alive π t.+1 s <= alive π t s.
Proof.
rewrite alive_live; apply: sum_le => x; move: (Pr_ge0 π t s x).
by rewrite /ind; case: (~~ _) => /= ?; lra.
Qed.

Lemma alive_le1 π t s : alive π t s <= 1.
Proof.
elim: t => [|t IH]; first by rewrite alive_0; lra.
exact: Rle_trans (alive_decr π t s) IH.
Qed.

Lemma alive_monotone π t t' s : (t <= t')%N -> alive π t' s <= alive π t s.
Proof.
move=> /subnK <-; elim: (t' - t)%N => [|k IH]; first by rewrite add0n; lra.
exact: Rle_trans (alive_decr _ _ _) IH.
Qed.

(** Where no state is terminal, every episode goes on. *)
Lemma alive_endless π t s : (forall x, ~~ terminal M x) -> alive π t s = 1.
Proof.
move=> live; elim: t s => [|t IH] s; first exact: alive_0.
rewrite alive_S; under eq_bigr do rewrite IH Rmult_1_r.
by rewrite P_row live.
Qed.

(** [E π t f s] is the expectation of [f(S_t)] over the episodes from [s] that
    have at least t steps. *)
Definition E π t f s := \sum_s' Pr π t s s' * f s'.

Lemma E_0 π f s : E π 0 f s = f s.
Proof. exact: sum_ind. Qed.

Lemma E_S π t f s : E π t.+1 f s = \sum_x P π s x * E π t f x.
Proof.
rewrite /E; under eq_bigr do rewrite Pr_S sum_mulr.
rewrite sum_swap; apply: eq_bigr => x _; rewrite sum_mull.
by apply: eq_bigr => y _; ring.
Qed.

Lemma E_Sr π t f s : E π t.+1 f s = E π t (fun x => \sum_y P π x y * f y) s.
Proof.
rewrite /E; under eq_bigr do rewrite Pr_Sr sum_mulr.
rewrite sum_swap; apply: eq_bigr => x _; rewrite sum_mull.
by apply: eq_bigr => y _; ring.
Qed.

Lemma E_plus π t f g s : E π t (fun x => f x + g x) s = E π t f s + E π t g s.
Proof.
by rewrite /E -sum_plus; apply: eq_bigr => x _; ring.
Qed.

Lemma E_scal π t c f s : E π t (fun x => c * f x) s = c * E π t f s.
Proof. by rewrite /E sum_mull; apply: eq_bigr => x _; ring. Qed.

Lemma E_ext π t f g s : (forall x, f x = g x) -> E π t f s = E π t g s.
Proof. by move=> fg; apply: eq_bigr => x _; rewrite fg. Qed.

Lemma E_le π t f s : Rabs (E π t f s) <= alive π t s * size1 f.
Proof. by apply: weighted_le => x; apply: Pr_ge0. Qed.

(** ** One step ahead

    [lookahead γ w s a] is what action [a] earns in [s] if the next state is
    worth [w]. With the right [w] it is an action value. *)

Variable γ : R.

Definition lookahead (w : State -> R) s a :=
  \sum_s' \sum_r p M s' r s a * (reward M r + γ * w s').

Lemma lookahead_expected w s a :
  lookahead w s a = expected_reward s a + γ * \sum_s' transition s' s a * w s'.
Proof.
rewrite /expected_reward sum_mull -sum_plus; apply: eq_bigr => x _.
rewrite /transition sum_mulr sum_mull -sum_plus.
by apply: eq_bigr => r' _; ring.
Qed.

Lemma P_average π w s :
  \sum_a π a s * (\sum_x transition x s a * w x) = \sum_x P π s x * w x.
Proof.
under [RHS]eq_bigr do rewrite /P sum_mulr.
rewrite sum_swap; apply: eq_bigr => a _; rewrite sum_mull.
by apply: eq_bigr => x _; rewrite Rmult_assoc.
Qed.

(** The average of the look-ahead over the actions is the Bellman operator,
    r + γ P w. *)
Lemma lookahead_policy π w s :
  \sum_a π a s * lookahead w s a = r π s + γ * \sum_x P π s x * w x.
Proof.
under eq_bigr do rewrite lookahead_expected Rmult_plus_distr_l.
rewrite sum_plus -/(r π s) -P_average sum_mull; congr (_ + _).
by apply: eq_bigr => a _; ring.
Qed.

Lemma lookahead_diff w w' s a :
  lookahead w s a - lookahead w' s a =
  γ * \sum_x transition x s a * (w x - w' x).
Proof.
have -> : \sum_x transition x s a * (w x - w' x) =
    (\sum_x transition x s a * w x) - \sum_x transition x s a * w' x.
  by rewrite -sum_minus; apply: eq_bigr => x _; ring.
by rewrite !lookahead_expected; ring.
Qed.

(** ** A fixed number of steps

    [v_left π n s] is the expected return of an episode from [s] that is
    stopped after [n] steps. With the horizon [T] fixed, the value at time
    [t] is the one with T - t steps left, and the action values at time t
    look ahead to the one with T - t - 1. *)

Fixpoint v_left π n s : R :=
  if n is n'.+1 then \sum_a π a s * lookahead (v_left π n') s a else 0.

Definition v_at π (T t : nat) s := v_left π (T - t) s.
Definition q_at π (T t : nat) s a := lookahead (v_at π T t.+1) s a.

(* Book: prop-finite-horizon, eq-finite-horizon-value *)
Theorem finite_horizon_value π (T t : nat) s : v_at π T T s = 0 /\
  ((t < T)%N ->
   v_at π T t s = r π s + γ * \sum_x P π s x * v_at π T t.+1 x).
Proof.
split; first by rewrite /v_at subnn.
move=> tT; rewrite /v_at -subnSK //= lookahead_policy //.
Qed.

Lemma v_left_S π n s :
  v_left π n.+1 s = r π s + γ * \sum_x P π s x * v_left π n x.
Proof. exact: lookahead_policy. Qed.

Lemma v_at_q π T t s : (t < T)%N ->
  v_at π T t s = \sum_a π a s * q_at π T t s a.
Proof. by move=> tT; rewrite /q_at /v_at -subnSK. Qed.

(** It is the sum of the expected discounted rewards of the steps: the
    expectation of the return, taken term by term. *)
Lemma v_left_sum π n s :
  v_left π n s = \sum_(t < n) γ ^ t * E π t (r π) s.
Proof.
elim: n s => [|n IH] s; first by rewrite big_ord0.
rewrite v_left_S sum_recl pow_O E_0 Rmult_1_l; congr (_ + _).
under eq_bigr do rewrite IH sum_mull.
rewrite sum_swap sum_mull; apply: eq_bigr => t _.
rewrite lift0 E_S !sum_mull; apply: eq_bigr => x _.
by rewrite pow_step; ring.
Qed.

End Dynamics.
