using Godwit.Memory;

namespace Godwit.Iommu.Intel.Interrupts;

/// <summary>
/// What interprets the interrupt-remapping table. The unit's registers and its queue drive it: on the thread of the register write, under
/// the unit's command lock and no other.
/// </summary>
internal interface IInterruptTableOwner
{
    /// <summary>Everything that the registers say, as one: after SIRTP (table), IRE, CFI, a reset, a load.</summary>
    void Configure(in InterruptRemappingState state);

    /// <summary>
    /// Interrupt-entry cache invalidation (VT-d 6.5.2.8): entries <paramref name="first"/> to <paramref name="last"/>, inclusive, may have
    /// changed. On return no interrupt is delivered by what they said before.
    /// </summary>
    void InvalidateEntries(int first, int last);
}

/// <summary>What the guest has set up for interrupts.</summary>
/// <param name="Table">GPA of the table that SIRTP latched (VT-d 11.4.10, IRTA).</param>
/// <param name="Entries">Its entries, 2 to 65536; 0 before the first SIRTP.</param>
/// <param name="Extended">IRTA.EIME as latched: destinations have 32 bits.</param>
/// <param name="Enabled">GSTS.IRES.</param>
/// <param name="CompatibilityPasses">GSTS.CFIS: requests in compatibility format pass, as long as EIME is 0 (VT-d 5.1.4).</param>
internal readonly record struct InterruptRemappingState(Gpa Table, int Entries, bool Extended, bool Enabled, bool CompatibilityPasses);
