/* Special functions, one X-macro row each. No include guard: expand SPECIAL_ROWS(U, B) with
 *     U(name, cases, calls)   one operand       B(name, ...)   two, which broadcast
 * where sp_<name> of ops/special_math.h computes it, and `calls` are the torch rows, made with the macros of special.c. */
#define SPECIAL_ROWS(U, B)                                                                         \
  U(lgamma, SPECIAL_ANY, CALL1("lgamma") CALL1("special_gammaln") CALL_MVLGAMMA)                   \
  U(digamma, SPECIAL_POSITIVE, CALL1("digamma") CALL1("special_digamma") CALL1("special_psi"))     \
  U(erfinv, SPECIAL_UNIT, CALL1("erfinv") CALL1("special_erfinv"))                                 \
  U(erfcx, SPECIAL_UNIT, CALL1("special_erfcx"))                                                   \
  U(ndtri, SPECIAL_PROBABILITY, CALL1("special_ndtri"))                                            \
  U(log_ndtr, SPECIAL_ANY, CALL1("special_log_ndtr"))                                              \
  U(entr, SPECIAL_ANY, CALL1("special_entr"))                                                      \
  U(i0, SPECIAL_ANY, CALL1("i0") CALL1("special_i0") CALL1("special_modified_bessel_i0"))          \
  U(i0e, SPECIAL_ANY, CALL1("special_i0e"))                                                        \
  U(i1, SPECIAL_ANY, CALL1("special_i1") CALL1("special_modified_bessel_i1"))                      \
  U(i1e, SPECIAL_ANY, CALL1("special_i1e"))                                                        \
  U(bessel_j0, SPECIAL_ANY, CALL1("special_bessel_j0"))                                            \
  U(bessel_j1, SPECIAL_ANY, CALL1("special_bessel_j1"))                                            \
  U(bessel_y0, SPECIAL_POSITIVE, CALL1("special_bessel_y0"))                                       \
  U(bessel_y1, SPECIAL_POSITIVE, CALL1("special_bessel_y1"))                                       \
  U(spherical_bessel_j0, SPECIAL_ANY, CALLX("special_spherical_bessel_j0"))                        \
  U(modified_bessel_k0, SPECIAL_POSITIVE, CALL1("special_modified_bessel_k0"))                     \
  U(modified_bessel_k1, SPECIAL_POSITIVE, CALL1("special_modified_bessel_k1"))                     \
  U(scaled_modified_bessel_k0, SPECIAL_POSITIVE, CALLX("special_scaled_modified_bessel_k0"))       \
  U(scaled_modified_bessel_k1, SPECIAL_POSITIVE, CALLX("special_scaled_modified_bessel_k1"))       \
  U(airy_ai, SPECIAL_ANY, CALLX("special_airy_ai"))                                                \
  U(mantissa, SPECIAL_ANY, CALL_FREXP)                                                             \
  U(exponent, SPECIAL_ANY, )                                                                       \
  B(polygamma, SPECIAL_POLYGAMMA, CALL_POLYGAMMA("polygamma") CALL_POLYGAMMA("special_polygamma")) \
  B(zeta, SPECIAL_ZETA, CALLS("special_zeta"))                                                     \
  B(igamma, SPECIAL_POSITIVE2, CALL2("igamma") CALL2("special_gammainc"))                          \
  B(igammac, SPECIAL_POSITIVE2, CALL2("igammac") CALL2("special_gammaincc"))                       \
  B(xlog1py, SPECIAL_POSITIVE2, CALLS("special_xlog1py"))                                          \
  B(chebyshev_t, SPECIAL_DEGREE, CALLN("special_chebyshev_polynomial_t"))                          \
  B(chebyshev_u, SPECIAL_DEGREE, CALLN("special_chebyshev_polynomial_u"))                          \
  B(chebyshev_v, SPECIAL_DEGREE, CALLN("special_chebyshev_polynomial_v"))                          \
  B(chebyshev_w, SPECIAL_DEGREE, CALLN("special_chebyshev_polynomial_w"))                          \
  B(shifted_chebyshev_t, SPECIAL_DEGREE, CALLN("special_shifted_chebyshev_polynomial_t"))          \
  B(shifted_chebyshev_u, SPECIAL_DEGREE, CALLN("special_shifted_chebyshev_polynomial_u"))          \
  B(shifted_chebyshev_v, SPECIAL_DEGREE, CALLN("special_shifted_chebyshev_polynomial_v"))          \
  B(shifted_chebyshev_w, SPECIAL_DEGREE, CALLN("special_shifted_chebyshev_polynomial_w"))          \
  B(hermite_h, SPECIAL_DEGREE, CALLN("special_hermite_polynomial_h"))                              \
  B(hermite_he, SPECIAL_DEGREE, CALLN("special_hermite_polynomial_he"))                            \
  B(laguerre_l, SPECIAL_DEGREE, CALLN("special_laguerre_polynomial_l"))                            \
  B(legendre_p, SPECIAL_DEGREE, CALLN("special_legendre_polynomial_p"))
