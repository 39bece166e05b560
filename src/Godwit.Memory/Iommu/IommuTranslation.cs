namespace Godwit.Memory;

/// <summary>What an access wants or a translation allows.</summary>
[Flags]
public enum AccessRights
{
    /// <summary>Nothing.</summary>
    None = 0,

    /// <summary>Reading.</summary>
    Read = 1,

    /// <summary>Writing.</summary>
    Write = 2,

    /// <summary>Both.</summary>
    ReadWrite = Read | Write,
}

/// <summary>The result of a translation: the aligned piece around the input. <see cref="Rights"/> None means a fault (already recorded).</summary>
/// <param name="Input">First IOVA of the piece.</param>
/// <param name="Output">The GPA of <paramref name="Input"/>.</param>
/// <param name="Mask">Bytes in the piece minus 1.</param>
/// <param name="Rights">What the tables allow.</param>
public readonly record struct IommuTranslation(Iova Input, Gpa Output, ulong Mask, AccessRights Rights);

/// <summary>What can be asked of a vIOMMU before the guest has mapped anything.</summary>
/// <param name="TranslatesDma">False: remaps interrupts at most; IOVA is GPA.</param>
/// <param name="LastIova">Highest IOVA that can ever be mapped, inclusive; null when the model has no limit to tell.</param>
public readonly record struct IommuAttributes(bool TranslatesDma, Iova? LastIova)
{
    /// <summary>
    /// Whether the guest owns a first stage of translation that the VMM does not see: mappings are announced for the second stage only, while
    /// devices use addresses of the first.
    /// </summary>
    public bool IsNested { get; init; }

    /// <summary>Why the model's state cannot be moved to another host; null when it can.</summary>
    public string? NotMigratable { get; init; }
}

/// <summary>
/// A shadow user of an IOMMU: told of exactly every mapping that comes and goes, never of one twice. Called on the thread that
/// invalidates, under the unit's lock, between <see cref="BatchBegin"/> and <see cref="BatchEnd"/>.
/// </summary>
public interface IIommuListener
{
    /// <summary>A series of events begins.</summary>
    void BatchBegin() { }

    /// <summary><paramref name="length"/> bytes at <paramref name="iova"/> now go to <paramref name="target"/>.</summary>
    void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights);

    /// <summary>Exactly a range announced before (one or several whole announcements) is gone.</summary>
    void Unmapped(Iova iova, ulong length);

    /// <summary>The series is complete: when this returns, every unmapped range is gone from the host and the guest may be told so.</summary>
    void BatchEnd() { }
}
