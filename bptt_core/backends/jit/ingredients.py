"""How functions become one program quickly: each is typed once and translated once, and only the whole is optimised.

Numba optimises a function and makes instructions of it for itself, and again inside each of its callers, and theirs.
Nothing calls the parts of the fold but the fold: here they are left as they were translated until the entry has taken
them all in. That is a third of the time, and the optimiser sees everything at once.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import NativeLowering


class Ingredient(Compiler):
    """The usual way to compile, up to where a function would be made to run by itself."""

    def define_pipelines(self) -> list[Any]:
        managers: list[Any] = super().define_pipelines()
        for manager in managers:
            manager.passes = [(_Lowering if step is NativeLowering else step, why) for step, why in manager.passes]
            manager.finalize()
        return managers


def once_for_all(dispatcher: Any) -> Any:
    """Has a function compiled for integers whether they are constants at the call or not: Numba would do so for each
    constant anew."""
    template = dispatcher.get_call_template

    def chosen(arguments: Any, keywords: Any) -> Any:
        named = {name: types.unliteral(of) for name, of in keywords.items()}
        return template(tuple(types.unliteral(of) for of in arguments), named)

    dispatcher.get_call_template = chosen
    return dispatcher


class _Library(JITCodeLibrary):
    """A function as it was translated, with all that it calls."""

    def _optimize_final_module(self) -> None:
        """The entry's library does, for all."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    _name = "ingredient_lowering"

    def run_pass(self, state: Any) -> bool:
        state.flags.no_compile = True
        state.library = _Library(state.targetctx.codegen(), state.func_id.func_qualname)
        super().run_pass(state)
        key = [].clear  # Numba finds functions by a builtin that is called for them: one that is like no other will do
        state.targetctx.insert_user_function(key, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=key)
        return True
