(** * Finite sums, limits and gradients

    What the other files need and what has nothing to do with learning: sums
    of real numbers over a finite set, and how limits, series, continuity and
    derivatives pass through them. *)

From Coq Require Export Reals Lra.
From Coquelicot Require Export Coquelicot.
From mathcomp Require Export all_ssreflect.

Set Implicit Arguments.
Unset Strict Implicit.
Unset Printing Implicit Defensive.
Open Scope R_scope.

(** [ring], where Coquelicot has hidden that the equation is one between real
    numbers. *)
Ltac real_ring :=
  match goal with |- @eq _ ?x ?y => change (@eq R x y); ring end.

(** ** Sums

    The library of big operators works for every operation that is known to
    be associative and commutative. These lines tell it that [+] and [*] on
    the reals are, and that one distributes over the other. *)

Canonical Rplus_law :=
  Monoid.Law (fun x y z => esym (Rplus_assoc x y z)) Rplus_0_l Rplus_0_r.
Canonical Rplus_comlaw := Monoid.ComLaw Rplus_comm.
Canonical Rmult_law :=
  Monoid.Law (fun x y z => esym (Rmult_assoc x y z)) Rmult_1_l Rmult_1_r.
Canonical Rmult_mullaw := Monoid.MulLaw Rmult_0_l Rmult_0_r.
Canonical Rmult_comlaw := Monoid.ComLaw Rmult_comm.
Canonical Rplus_addlaw := Monoid.AddLaw Rmult_plus_distr_r Rmult_plus_distr_l.

(** [\sum_(x : T) f x] is the sum of the numbers [f x] over all elements [x]
    of the finite type [T]. A sum extends as far to the right as it can. *)

Notation "\sum_ ( i : T ) F" :=
  (\big[Rplus/R0]_(i : T) F%R) (only parsing) : R_scope.
Notation "\sum_ ( i < n ) F" := (\big[Rplus/R0]_(i < n) F%R) : R_scope.
Notation "\sum_ i F" := (\big[Rplus/R0]_i F%R) : R_scope.

Section FiniteSums.
Variables (T U : finType).
Implicit Types (f g : T -> R) (c : R).

Lemma sum_mull c f : c * (\sum_x f x) = \sum_x c * f x.
Proof. exact: big_distrr. Qed.

Lemma sum_mulr c f : (\sum_x f x) * c = \sum_x f x * c.
Proof. exact: big_distrl. Qed.

Lemma sum_plus f g : \sum_x (f x + g x) = (\sum_x f x) + \sum_x g x.
Proof. exact: big_split. Qed.

Lemma sum_opp f : \sum_x (- f x) = - \sum_x f x.
Proof.
have -> : - (\sum_x f x) = -1 * (\sum_x f x) by ring.
by rewrite sum_mull; apply: eq_bigr => x _; ring.
Qed.

Lemma sum_minus f g : \sum_x (f x - g x) = (\sum_x f x) - \sum_x g x.
Proof. by rewrite /Rminus sum_plus sum_opp. Qed.

Lemma sum_swap (h : T -> U -> R) : \sum_x \sum_y h x y = \sum_y \sum_x h x y.
Proof. exact: exchange_big. Qed.

Lemma sum_zero f : (forall x, f x = 0) -> \sum_x f x = 0.
Proof. by move=> f0; apply: big1 => x _. Qed.

Lemma sum_const c : \sum_(x : T) c = INR #|T| * c.
Proof.
rewrite big_const; elim: (#|T|) => [|n IH]; first by rewrite /= Rmult_0_l.
by rewrite iterS IH S_INR; ring.
Qed.

(** A sum in which only one term is different from zero. *)
Lemma sum_only (x : T) f : (forall y, y != x -> f y = 0) -> \sum_y f y = f x.
Proof.
by move=> f0; rewrite (bigD1 x) //= big1 ?Rplus_0_r // => y /f0.
Qed.

Lemma sum_ge0 f : (forall x, 0 <= f x) -> 0 <= \sum_x f x.
Proof.
move=> f0; apply: (big_ind (fun r => 0 <= r)) => //; first exact: Rle_refl.
by move=> x y ? ?; lra.
Qed.

Lemma sum_le f g : (forall x, f x <= g x) -> \sum_x f x <= \sum_x g x.
Proof.
move=> fg; apply: (big_ind2 (fun a b => a <= b)) => //; first exact: Rle_refl.
by move=> a b c d ? ?; lra.
Qed.

Lemma term_le_sum f x : (forall x, 0 <= f x) -> f x <= \sum_x f x.
Proof.
move=> f0; rewrite (bigD1 x) //=.
have : 0 <= \big[Rplus/R0]_(i | i != x) f i.
  apply: (big_ind (fun r => 0 <= r)) => //; first exact: Rle_refl.
  by move=> y z ? ?; lra.
lra.
Qed.

Lemma sum_Rabs f : Rabs (\sum_x f x) <= \sum_x Rabs (f x).
Proof.
apply: (big_ind2 (fun a b => Rabs a <= b)) => [|a b c d ? ?|x _].
- by rewrite Rabs_R0; apply: Rle_refl.
- by apply: Rle_trans (Rabs_triang _ _) _; lra.
- exact: Rle_refl.
Qed.

(** The size of a function on a finite set: the sum of its absolute values.
    The largest would do as well; a sum is easier to handle. *)
Definition size1 f := \sum_x Rabs (f x).

Lemma size1_ge0 f : 0 <= size1 f.
Proof. by apply: sum_ge0 => x; apply: Rabs_pos. Qed.

Lemma Rabs_le_size1 f x : Rabs (f x) <= size1 f.
Proof.
by apply: (term_le_sum (f := fun x => Rabs (f x))) => y; apply: Rabs_pos.
Qed.

(** A weighted sum is at most the sum of the weights times the size. *)
Lemma weighted_le f g : (forall x, 0 <= f x) ->
  Rabs (\sum_x f x * g x) <= (\sum_x f x) * size1 g.
Proof.
move=> f0; apply: Rle_trans (sum_Rabs _) _; rewrite sum_mulr.
apply: sum_le => x; rewrite Rabs_mult (Rabs_pos_eq (f x)) //.
by apply: Rmult_le_compat_l => //; apply: Rabs_le_size1.
Qed.

End FiniteSums.

Lemma sum_option (T : finType) (F : option T -> R) :
  \sum_z F z = F None + \sum_x F (Some x).
Proof.
rewrite (bigD1 None) //=; congr (_ + _).
rewrite (reindex_omap Some id) /= => [|[w|] //].
by apply: eq_bigl => w; rewrite eqxx.
Qed.

Lemma sum_bool (F : bool -> R) : \sum_b F b = F true + F false.
Proof. exact: big_bool. Qed.

(** The number 1 if something is true, and 0 if it is not. *)
Definition ind (b : bool) : R := if b then 1 else 0.

Lemma sum_ind (T : finType) (x : T) (f : T -> R) :
  \sum_y ind (y == x) * f y = f x.
Proof.
rewrite (sum_only (x := x)) ?eqxx /ind ?Rmult_1_l // => y /negbTE ->.
by rewrite Rmult_0_l.
Qed.

(** A sum over a first thing and the rest, once over pairs and once in two
    sums. *)
Lemma sum_recl n (f : 'I_n.+1 -> R) :
  \sum_(i < n.+1) f i = f ord0 + \sum_(i < n) f (lift ord0 i).
Proof. exact: big_ord_recl. Qed.

Lemma sum_recr n (f : 'I_n.+1 -> R) :
  \sum_(i < n.+1) f i = (\sum_(i < n) f (widen_ord (leqnSn n) i)) + f ord_max.
Proof. exact: big_ord_recr. Qed.

(** ** Powers *)

Lemma pow_step (x : R) n : x ^ n.+1 = x * x ^ n.
Proof. by []. Qed.

Lemma pow_le1 (x : R) n : 0 <= x <= 1 -> 0 <= x ^ n <= 1.
Proof.
move=> x01; split; first by apply: pow_le; lra.
by rewrite -(pow1 n); apply: pow_incr.
Qed.

(** ** Finitely many at once

    What holds for each element of a finite set from some bound on holds for
    all of them from one bound on; and what holds for each in some
    neighbourhood holds for all in one neighbourhood. *)

Section Finite.
Variable T : finType.

Lemma finite_bound (Q : T -> nat -> Prop) :
  (forall x m n, (m <= n)%N -> Q x m -> Q x n) ->
  (forall x, exists n, Q x n) -> exists n, forall x, Q x n.
Proof.
move=> mono each; suff [n Qn] : exists n, forall x, x \in enum T -> Q x n.
  by exists n => x; apply: Qn; rewrite mem_enum.
elim: (enum T) => [|y s [n Qn]]; first by exists 0%N.
have [m Qm] := each y; exists (maxn m n) => x; rewrite inE.
case: eqP => [-> _|_ /= xs]; first exact: mono (leq_maxl m n) Qm.
exact: mono (leq_maxr m n) (Qn x xs).
Qed.

Lemma finite_less1 (f : T -> R) : (forall x, f x < 1) ->
  exists β, 0 <= β < 1 /\ forall x, f x <= β.
Proof.
move=> f1; suff [β [β01 fβ]] : exists β, 0 <= β < 1 /\
    forall x, x \in enum T -> f x <= β.
  by exists β; split=> // x; apply: fβ; rewrite mem_enum.
elim: (enum T) => [|y s [β [β01 fβ]]]; first by exists 0; split=> //; lra.
exists (Rmax β (f y)); split.
  by split; [apply: Rle_trans (Rmax_l _ _); lra|apply: Rmax_lub_lt => //; lra].
move=> x; rewrite inE; case: eqP => [-> _|_ /= xs]; first exact: Rmax_r.
exact: Rle_trans (fβ x xs) (Rmax_l _ _).
Qed.

Lemma filter_finite (S : Type) (F : (S -> Prop) -> Prop) {FF : Filter F}
    (Q : T -> S -> Prop) :
  (forall x, F (Q x)) -> F (fun y => forall x, Q x y).
Proof.
move=> each.
have : F (fun y => forall x, x \in enum T -> Q x y).
  elim: (enum T) => [|z s IH]; first exact: filter_forall.
  apply: filter_imp (filter_and _ _ (each z) IH) => y [Qz Qs] x.
  by rewrite inE; case: eqP => [->|_ /Qs].
by apply: filter_imp => y Qy x; apply: Qy; rewrite mem_enum.
Qed.

End Finite.

(** ** Limits and series *)

Section Limits.
Variable T : finType.

Lemma is_lim_seq_sum (f : T -> nat -> R) (l : T -> R) :
  (forall x, is_lim_seq (f x) (l x)) ->
  is_lim_seq (fun n => \sum_x f x n) (\sum_x l x).
Proof.
move=> fl; elim: (index_enum T) => [|x r IH].
  rewrite big_nil; apply: (is_lim_seq_ext (fun=> 0)) => [n|].
    by rewrite big_nil.
  exact: is_lim_seq_const.
rewrite big_cons.
apply: (is_lim_seq_ext (fun n => f x n + \big[Rplus/R0]_(j <- r) f j n)).
  by move=> n; rewrite big_cons.
exact: is_lim_seq_plus'.
Qed.

Lemma is_series_sum (f : T -> nat -> R) (l : T -> R) :
  (forall x, is_series (f x) (l x)) ->
  is_series (fun n => \sum_x f x n) (\sum_x l x).
Proof.
move=> fl; elim: (index_enum T) => [|x r IH].
  rewrite big_nil; apply: (is_series_ext (fun=> 0)) => [n|].
    by rewrite big_nil.
  apply: filterlim_ext => [n|]; last exact: filterlim_const.
  by rewrite sum_n_const Rmult_0_r.
rewrite big_cons.
apply: (is_series_ext (fun n => plus (f x n) (\big[Rplus/R0]_(j <- r) f j n))).
  by move=> n; rewrite big_cons.
exact: is_series_plus.
Qed.

Lemma continuous_sum (V : UniformSpace) (f : T -> V -> R) (v : V) :
  (forall x, continuous (f x) v) -> continuous (fun w => \sum_x f x w) v.
Proof.
move=> fc; elim: (index_enum T) => [|x r IH].
  apply: (continuous_ext (fun=> 0)) => [w|]; first by rewrite big_nil.
  exact: continuous_const.
apply: (continuous_ext (fun w => plus (f x w) (\big[Rplus/R0]_(j <- r) f j w))).
  by move=> w; rewrite big_cons.
exact: continuous_plus.
Qed.

End Limits.

Lemma continuous_near (V : UniformSpace) (f : V -> R) (v : V) (ε : R) :
  continuous f v -> 0 < ε -> locally v (fun w => Rabs (f w - f v) < ε).
Proof.
move=> fc ε0.
exact: (fc (ball (f v) ε) (locally_ball (f v) (mkposreal ε ε0))).
Qed.

(** A series whose terms are not negative and whose partial sums are bounded
    converges. *)
Lemma series_of_bounded (a : nat -> R) (B : R) :
  (forall n, 0 <= a n) -> (forall n, sum_n a n <= B) ->
  ex_series a /\ Series a <= B.
Proof.
move=> a0 aB.
have [l al] : ex_finite_lim_seq (sum_n a).
  apply: (ex_finite_lim_seq_incr _ B) => // n.
  by rewrite sum_Sn /plus /=; move: (a0 n.+1); lra.
split; first by exists l.
rewrite (is_series_unique a l) //.
apply: (is_lim_seq_le (sum_n a) (fun=> B) l B) => //.
exact: is_lim_seq_const.
Qed.

Lemma sum_n_ord (a : nat -> R) n : sum_n a n = \sum_(t < n.+1) a t.
Proof.
elim: n => [|n IH]; first by rewrite sum_O big_ord_recl big_ord0 Rplus_0_r.
by rewrite sum_Sn IH [RHS]big_ord_recr.
Qed.

(** A series is the limit of the sums of its first n terms. *)
Lemma series_limit (a : nat -> R) (l : R) :
  is_series a l <-> is_lim_seq (fun n => \sum_(t < n) a t) l.
Proof.
have shift : is_series a l <-> is_lim_seq (fun n => \sum_(t < n.+1) a t) l.
  by split=> al; [apply: (is_lim_seq_ext (sum_n a))|
    apply: (is_lim_seq_ext _ (sum_n a) l _ al)] => // n; rewrite sum_n_ord.
by rewrite shift; symmetry; apply: (is_lim_seq_incr_1 (fun n =>
  \sum_(t < n) a t)).
Qed.

Lemma limit_unique (u : nat -> R) (l l' : R) :
  is_lim_seq u l -> is_lim_seq u l' -> l = l'.
Proof.
by move=> /is_lim_seq_unique ul /is_lim_seq_unique; rewrite ul => -[].
Qed.

(** Limits of real numbers, with ε. *)
Lemma limit_elim (u : nat -> R) (l ε : R) : is_lim_seq u l -> 0 < ε ->
  exists n, forall m, (n <= m)%N -> Rabs (u m - l) < ε.
Proof.
move=> ul ε0.
have [n un] := proj2 (is_lim_seq_spec u l) ul (mkposreal ε ε0).
by exists n => m /leP; apply: un.
Qed.

Lemma limit_intro (u : nat -> R) (l : R) :
  (forall ε, 0 < ε -> exists n, forall m, (n <= m)%N -> Rabs (u m - l) < ε) ->
  is_lim_seq u l.
Proof.
move=> ul; apply/is_lim_seq_spec => ε; have [n un] := ul ε (cond_pos ε).
by exists n => m /leP; apply: un.
Qed.

(** If [a] has a finite sum and [b] tends to 0, then so does their
    convolution: where [t] is large, [a t] is small, and where it is not,
    [b (n - t - 1)] is. *)
Lemma convolution_vanishes (a b : nat -> R) :
  (forall n, 0 <= a n) -> ex_series a ->
  (forall n, 0 <= b n) -> is_lim_seq b 0 ->
  is_lim_seq (fun n => \sum_(t < n) a t * b (n - t.+1)%N) 0.
Proof.
move=> a0 [A aA] b0 blim; have Slim := (series_limit a A).1 aA.
pose S n := \sum_(t < n) a t.
have SS n : S n.+1 = S n + a n by rewrite /S sum_recr.
have SA n : S n <= A.
  by apply: (is_lim_seq_incr_compare S A Slim) => k; rewrite SS; move: (a0 k);
    lra.
have A0 : 0 <= A by have := SA 0%N; rewrite /S big_ord0.
have [C [C0 bC]] : exists C, 0 <= C /\ forall n, b n <= C.
  have [N bN] := limit_elim blim Rlt_0_1.
  have s0 : 0 <= \sum_(t < N) b t by apply: sum_ge0 => t; apply: b0.
  exists (1 + \sum_(t < N) b t); split; first by lra.
  move=> n; case: (leqP N n) => [/bN|nN].
    by rewrite Rminus_0_r => /Rabs_def2 [? _]; lra.
  have := @term_le_sum _ (fun t : 'I_N => b t) (Ordinal nN) (fun t => b0 t).
  by rewrite /=; lra.
apply: limit_intro => ε ε0.
have δ0 : 0 < ε / 2 / (A + 1) by apply: Rdiv_lt_0_compat; lra.
have δ'0 : 0 < ε / 2 / (C + 1) by apply: Rdiv_lt_0_compat; lra.
have [K bK] := limit_elim blim δ0.
have [m Sm] := limit_elim Slim δ'0.
have tail_m n : (m <= n)%N ->
    \sum_(t < n) a t * ind (m <= t)%N = S n - S m.
  move=> /subnKC <-; elim: (n - m)%N => [|k IH].
    rewrite addn0 sum_zero => [|t]; first by ring.
    by rewrite leqNgt ltn_ord /= Rmult_0_r.
  rewrite addnS sum_recr /= IH SS leq_addr /=; ring.
exists (m + K)%N => n mKn; rewrite Rminus_0_r Rabs_pos_eq; last first.
  by apply: sum_ge0 => t; apply: Rmult_le_pos.
have mn : (m <= n)%N by apply: leq_trans mKn; apply: leq_addr.
apply: Rle_lt_trans (_ : \sum_(t < n) (ε / 2 / (A + 1) * a t +
    C * (a t * ind (m <= t)%N)) < _).
  apply: sum_le => t; case: (leqP m t) => mt.
    rewrite /= Rmult_1_r.
    have := Rmult_le_compat_l _ _ _ (a0 t) (bC (n - t.+1)%N).
    have := Rmult_le_pos _ _ (Rlt_le _ _ δ0) (a0 t); lra.
  rewrite /= !Rmult_0_r Rplus_0_r Rmult_comm; apply: Rmult_le_compat_r => //.
  have /bK : (K <= n - t.+1)%N.
    by rewrite leq_subRL ?(leq_trans mt mn) //; apply: leq_trans mKn;
      rewrite leq_add2r.
  by rewrite Rminus_0_r => /Rabs_def2 [? _]; lra.
rewrite sum_plus -!sum_mull (tail_m n mn) -/(S n).
have small : S n - S m < ε / 2 / (C + 1).
  have := Sm m (leqnn m); rewrite -/(S m) => /Rabs_def2 [_].
  by have := SA n; lra.
have one : ε / 2 / (A + 1) * S n <= ε / 2.
  apply: Rle_trans (Rmult_le_compat_l _ _ _ (Rlt_le _ _ δ0) (SA n)) _.
  have -> : ε / 2 / (A + 1) * A = ε / 2 * (A / (A + 1)) by field; lra.
  rewrite -[X in _ <= X]Rmult_1_r; apply: Rmult_le_compat_l; first by lra.
  by apply/Rle_div_l; lra.
have two : C * (S n - S m) < ε / 2.
  apply: Rle_lt_trans (Rmult_le_compat_l _ _ _ C0 (Rlt_le _ _ small)) _.
  have -> : C * (ε / 2 / (C + 1)) = ε / 2 * (C / (C + 1)) by field; lra.
  rewrite -[X in _ < X]Rmult_1_r; apply: Rmult_lt_compat_l; first by lra.
  by apply/Rlt_div_l; lra.
lra.
Qed.

(** ** Gradients

    [gradient_at f θ D] says that [f] is differentiable at [θ], and that its
    derivative is the linear map [D]: a step [h] of the parameters changes
    [f] by [D h], up to an error that is small compared with [h]. This is
    the derivative of Fréchet. The parameters are the points of any normed
    space: for one parameter [D h] is [f'(θ) * h]; for d parameters it is the
    inner product of [h] with the gradient, and [D] of the i-th unit vector
    is the i-th partial derivative. *)

Section Gradients.
Variable V : NormedModule R_AbsRing.
Implicit Types (f g : V -> R) (θ : V) (D E : V -> R).

Definition gradient_at f θ D := filterdiff f (locally θ) D.

Lemma gradient_linear f θ D : gradient_at f θ D -> is_linear D.
Proof. by case. Qed.

Lemma gradient_continuous f θ D : gradient_at f θ D -> continuous f θ.
Proof. by move=> fD; apply: filterdiff_continuous; exists D. Qed.

Lemma gradient_ext f g θ D :
  (forall θ', f θ' = g θ') -> gradient_at f θ D -> gradient_at g θ D.
Proof. exact: filterdiff_ext. Qed.

Lemma gradient_same f θ D E :
  (forall h, D h = E h) -> gradient_at f θ D -> gradient_at f θ E.
Proof. by move=> DE fD; apply: filterdiff_ext_lin fD DE. Qed.

Lemma gradient_const (c : R) θ : gradient_at (fun=> c) θ (fun=> 0).
Proof. exact: filterdiff_const. Qed.

Lemma gradient_plus f g θ D E : gradient_at f θ D -> gradient_at g θ E ->
  gradient_at (fun θ' => f θ' + g θ') θ (fun h => D h + E h).
Proof. exact: filterdiff_plus_fct. Qed.

Lemma gradient_mult f g θ D E : gradient_at f θ D -> gradient_at g θ E ->
  gradient_at (fun θ' => f θ' * g θ') θ (fun h => D h * g θ + f θ * E h).
Proof. by apply: filterdiff_mult_fct => n m; apply: Rmult_comm. Qed.

Lemma gradient_scal (c : R) f θ D : gradient_at f θ D ->
  gradient_at (fun θ' => c * f θ') θ (fun h => c * D h).
Proof. by apply: filterdiff_scal_r_fct => n m; apply: Rmult_comm. Qed.

Lemma gradient_sum (T : finType) (f : T -> V -> R) θ (D : T -> V -> R) :
  (forall x, gradient_at (f x) θ (D x)) ->
  gradient_at (fun θ' => \sum_x f x θ') θ (fun h => \sum_x D x h).
Proof.
move=> fD; elim: (index_enum T) => [|x r IH].
  apply: (gradient_ext (f := fun=> 0)) => [w|]; first by rewrite big_nil.
  apply: gradient_same (gradient_const 0 θ) => h; by rewrite big_nil.
apply: (gradient_ext (f := fun w => f x w + \big[Rplus/R0]_(j <- r) f j w)).
  by move=> w; rewrite big_cons.
apply: gradient_same (gradient_plus (fD x) IH) => h; by rewrite big_cons.
Qed.

(** The chain rule for a function of one number. *)
Lemma gradient_chain (φ : R -> R) (l : R) f θ D :
  is_derive φ (f θ) l -> gradient_at f θ D ->
  gradient_at (fun θ' => φ (f θ')) θ (fun h => D h * l).
Proof. by move=> φl fD; apply: (filterdiff_comp' f φ θ D _ fD φl). Qed.

(** The definition in terms of ε: the form in which a gradient is used and
    established. *)
Lemma gradient_elim f θ D : gradient_at f θ D ->
  forall ε : posreal, locally θ (fun θ' =>
    Rabs (f θ' - f θ - D (minus θ' θ)) <= ε * norm (minus θ' θ)).
Proof. by case=> _ fD ε; apply: (fD θ (fun P HP => HP)). Qed.

Lemma gradient_intro f θ D : is_linear D ->
  (forall ε : posreal, locally θ (fun θ' =>
    Rabs (f θ' - f θ - D (minus θ' θ)) <= ε * norm (minus θ' θ))) ->
  gradient_at f θ D.
Proof.
move=> lD fD; split=> // θ1 lim1 ε.
by rewrite -(is_filter_lim_locally_unique θ θ1 lim1); apply: fD.
Qed.

(** Along the line from θ in the direction [h] the derivative is one of
    calculus. So a function has at most one. *)
Lemma gradient_along f θ D h : gradient_at f θ D ->
  is_derive (fun u : R => f (plus θ (scal u h))) 0 (D h).
Proof.
move=> fD.
have line : filterdiff (fun u : R => plus θ (scal u h)) (locally 0)
    (fun u : R => scal u h).
  apply: (filterdiff_ext_lin _ (fun u : R => plus zero (scal u h))).
    apply: filterdiff_plus_fct; first exact: filterdiff_const.
    by apply: filterdiff_linear; apply: is_linear_scal_l.
  by move=> u; rewrite plus_zero_l.
have at0 : plus θ (scal (0 : R) h) = θ.
  by rewrite (scal_zero_l h) plus_zero_r.
apply: (filterdiff_ext_lin _ (fun u : R => D (scal u h))).
  apply: (filterdiff_comp' (fun u : R => plus θ (scal u h)) f 0 _ D line).
  by rewrite at0.
by move=> u; rewrite (linear_scal _ (gradient_linear fD)).
Qed.

Lemma gradient_unique f θ D E h :
  gradient_at f θ D -> gradient_at f θ E -> D h = E h.
Proof.
move=> fD fE.
by rewrite -(is_derive_unique _ _ _ (gradient_along h fD))
  (is_derive_unique _ _ _ (gradient_along h fE)).
Qed.

(** At a minimum the derivative is 0. *)
Lemma gradient_minimum f θ D h : gradient_at f θ D ->
  (forall θ', f θ <= f θ') -> D h = 0.
Proof.
move=> fD least; set φ := fun u : R => f (plus θ (scal u h)).
have φ' := gradient_along h fD; rewrite -/φ in φ'.
have d0 : derivable_pt φ 0 by apply: ex_derive_Reals_0; exists (D h).
rewrite -(is_derive_unique _ _ _ φ') -(Derive_Reals φ 0 d0).
apply: (deriv_minimum φ (-1) 1 0 d0) => [||u _ _]; [lra|lra|].
by rewrite {1}/φ (scal_zero_l h) plus_zero_r; apply: least.
Qed.

Lemma linear_sum (T : finType) (D : T -> V -> R) :
  (forall x, is_linear (D x)) -> is_linear (fun h => \sum_x D x h).
Proof.
move=> lD; have := @gradient_sum T D zero D.
by move=> H; apply: (gradient_linear (H _)) => x; apply: filterdiff_linear.
Qed.

Lemma linear_mull (c : R) D : is_linear D -> is_linear (fun h => c * D h).
Proof.
move=> lD; apply: (@gradient_linear (fun h => c * D h) zero).
by apply: gradient_scal; apply: filterdiff_linear.
Qed.

End Gradients.

(** For one real parameter, the gradient is the derivative of calculus. *)
Lemma gradient_is_derive (f : R -> R) (θ l : R) :
  gradient_at f θ (fun h => h * l) <-> is_derive f θ l.
Proof. by []. Qed.
