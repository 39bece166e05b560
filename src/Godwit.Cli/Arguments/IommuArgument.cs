using System.Globalization;
using Godwit.Iommu.Intel;
using Godwit.Machine;

namespace Godwit.Cli;

/// <summary>The argument of <c>--iommu</c>: <c>none</c>, or <c>intel[,property=value...]</c>.</summary>
/// <param name="Kind">Which vIOMMU.</param>
/// <param name="Given">The properties that were given, as they were.</param>
internal sealed record IommuArgument(IommuKind Kind, IReadOnlyDictionary<string, string> Given)
{
    private static readonly IntelIommuOptions Defaults = new();

    private static readonly Property[] Properties =
    [
        new("aw-bits", "39|48|57", Text(Defaults.AddressWidth), "width of DMA addresses: page tables of 3, 4 or 5 levels",
            static (options, value) => options with { AddressWidth = Width(value) }),
        Switch("caching-mode", Defaults.CachingMode, "the guest tells of new mappings too; passthrough devices need it unless DMA is not translated",
            static (options, on) => options with { CachingMode = on }),
        Switch("intremap", Defaults.InterruptRemapping, "interrupts go through a table of the guest's",
            static (options, on) => options with { InterruptRemapping = on }),
        Switch("eim", Defaults.ExtendedInterruptMode, "that table has destinations of 32 bits; more than 255 vCPUs need it; needs intremap",
            static (options, on) => options with { ExtendedInterruptMode = on }),
        Switch("dma-translation", Defaults.DmaTranslation, "off: a unit for interrupts only, devices do DMA by GPA; needs intremap",
            static (options, on) => options with { DmaTranslation = on }),
        Switch("pt", Defaults.PassThrough, "the guest may exempt a device from translation",
            static (options, on) => options with { PassThrough = on }),
        Switch("device-iotlb", Defaults.DeviceIotlb, "devices may keep translations of their own",
            static (options, on) => options with { DeviceIotlb = on }),
        Switch("scalable-mode", Defaults.ScalableMode, "PASID tables; needs aw-bits 48 or 57, or first-stage=off",
            static (options, on) => options with { ScalableMode = on }),
        Switch("first-stage", Defaults.FirstStage, "first-stage page tables in scalable mode; off for passthrough in a guest that does not announce them",
            static (options, on) => options with { FirstStage = on }),
        Switch("snoop-control", Defaults.SnoopControl, "page tables may have snoop bits",
            static (options, on) => options with { SnoopControl = on }),
    ];

    /// <summary>What <c>--iommu</c> has when it is not given.</summary>
    public static IommuArgument Default { get; } = new(IommuKind.Intel, new Dictionary<string, string>(StringComparer.Ordinal));

    /// <summary>Properties of an Intel unit.</summary>
    public IntelIommuOptions Intel => Properties.Aggregate(
        Defaults, (options, property) => Given.TryGetValue(property.Name, out string? value) ? property.Set(options, value) : options);

    /// <summary>Reads <paramref name="text"/>.</summary>
    /// <exception cref="FormatException">What is wrong with it, and what is allowed.</exception>
    public static IommuArgument Parse(string text)
    {
        KeyValueList list = KeyValueList.Parse(text);
        IommuKind kind = list.Kind switch
        {
            "intel" => IommuKind.Intel,
            "none" => IommuKind.None,
            _ => throw new FormatException($"'{list.Kind}' is not one of intel, none"),
        };
        if (kind == IommuKind.None && list.Settings.Count > 0)
        {
            throw new FormatException($"'{list.Settings.Keys.First()}' is a property of intel; none has none");
        }

        IommuArgument result = new(kind, new Dictionary<string, string>(StringComparer.Ordinal));
        return list.Settings.Aggregate(result, static (argument, setting) => argument.With(setting.Key, setting.Value));
    }

    /// <summary>With one property more.</summary>
    /// <exception cref="FormatException">There is no such property or value, or it has been given already.</exception>
    public IommuArgument With(string key, string value)
    {
        Property property = Array.Find(Properties, each => each.Name == key)
            ?? throw new FormatException($"'{key}' is not a property of intel: {string.Join(", ", Properties.Select(each => each.Name))} are");
        if (Kind == IommuKind.None)
        {
            return this; // the short forms have always been allowed, and ignored, without an IOMMU
        }

        _ = property.Set(Defaults, value);
        return Given.ContainsKey(key)
            ? throw new FormatException($"'{key}' is given twice, once by an option of its own")
            : this with { Given = new Dictionary<string, string>(Given, StringComparer.Ordinal) { [key] = value } };
    }

    /// <summary>As it could have been typed.</summary>
    public override string ToString() => Kind == IommuKind.None
        ? "none"
        : string.Concat(Given.Select(setting => $",{setting.Key}={setting.Value}").Prepend("intel"));

    /// <summary>A line for each property, for help pages.</summary>
    public static string Page()
    {
        int width = Properties.Max(property => property.Name.Length + property.Values.Length) + 1;
        return string.Join('\n', Properties.Select(
            property => $"  {$"{property.Name}={property.Values}".PadRight(width)}  {property.Description} [default: {property.Default}]"));
    }

    private static Property Switch(string name, bool byDefault, string description, Func<IntelIommuOptions, bool, IntelIommuOptions> set) => new(
        name, "on|off", byDefault ? "on" : "off", description, (options, value) => set(options, DeviceArgument.Switch(name, value)));

    private static int Width(string value) => value switch
    {
        "39" => 39,
        "48" => 48,
        "57" => 57,
        _ => throw new FormatException($"aw-bits must be 39, 48 or 57, not '{value}'"),
    };

    private static string Text(int number) => number.ToString(CultureInfo.InvariantCulture);

    private sealed record Property(string Name, string Values, string Default, string Description, Func<IntelIommuOptions, string, IntelIommuOptions> Set);
}
